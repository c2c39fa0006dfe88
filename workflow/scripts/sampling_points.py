"""Find the points that a run's attention reads on its test slides."""

from safetensors.numpy import load_file

from histofuse.io import hide_gpus, start_log, write_table
from histofuse.models.registry import load_classes
from histofuse.training.chosen import chosen_entry
from histofuse.training.dataset import read_split
from histofuse.training.sampling_points import sampling_points

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
given, task = snakemake.input, snakemake.params.task
entry = chosen_entry(snakemake.params.model, given.get("tuning"))

split = read_split(given, int(snakemake.wildcards.split), task, entry["inputs"])
model_class = load_classes(snakemake.params.class_files)
points = sampling_points(model_class, entry, task, split, load_file(given.weights), snakemake.threads)
write_table(points, snakemake.output.points)

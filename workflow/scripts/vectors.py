"""Vectors of a run's model for every row of its split, for runs that read them."""

from safetensors.numpy import load_file

from histofuse.io import hide_gpus, start_log, write_table
from histofuse.models.registry import load_classes
from histofuse.training.chosen import chosen_entry
from histofuse.training.dataset import read_split
from histofuse.training.run import run_vectors

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
given, task = snakemake.input, snakemake.params.task
entry = chosen_entry(snakemake.params.model, given.get("tuning"))

split = read_split(given, int(snakemake.wildcards.split), task, entry["inputs"])
model_class = load_classes(snakemake.params.class_files)
vectors = run_vectors(model_class, entry, task, split, load_file(given.weights), snakemake.threads)
write_table(vectors, snakemake.output.vectors)

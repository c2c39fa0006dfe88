"""Score the tiles of a run's test slides with its weights."""

from safetensors.numpy import load_file

from histofuse.io import hide_gpus, read_table, start_log, write_table
from histofuse.models.registry import load_classes
from histofuse.training.chosen import chosen_entry
from histofuse.training.dataset import read_split
from histofuse.training.tile_scores import tile_scores

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
given, task = snakemake.input, snakemake.params.task
entry = chosen_entry(snakemake.params.model, given.get("tuning"))

split = read_split(given, int(snakemake.wildcards.split), task, entry["inputs"])
model_class = load_classes(snakemake.params.class_files)
weights, predictions = load_file(given.weights), read_table(given.predictions)
scores = tile_scores(model_class, entry, task, split, weights, predictions, snakemake.threads)
write_table(scores, snakemake.output.scores)

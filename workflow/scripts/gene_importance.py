"""Permute the inputs of a run's test cases and see what each branch of its model makes of it."""

from safetensors.numpy import load_file

from histofuse.io import hide_gpus, start_log, write_table
from histofuse.models.registry import load_classes
from histofuse.training.chosen import chosen_entry
from histofuse.training.dataset import read_split
from histofuse.training.gene_importance import gene_importance

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
given, task = snakemake.input, snakemake.params.task
entry = chosen_entry(snakemake.params.model, given.get("tuning"))
number, seed = int(snakemake.wildcards.split), int(snakemake.wildcards.seed)

split = read_split(given, number, task, entry["inputs"])
model_class = load_classes(snakemake.params.class_files)
found = gene_importance(model_class, entry, task, split, load_file(given.weights), snakemake.threads)
write_table(found.assign(split=number, seed=seed), snakemake.output.importance)

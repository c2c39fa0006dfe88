"""Predict the cases of another cohort with the weights and the scaling of a run."""

from safetensors.numpy import load_file

from histofuse.io import hide_gpus, read_table, start_log, write_table
from histofuse.models.registry import load_classes
from histofuse.training.dataset import read_split
from histofuse.training.external import genes_of, predict_external, read_at_scoring, read_external
from histofuse.training.weights import entry_of

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
given, task = snakemake.input, snakemake.params.task
entry = entry_of(given.weights)

inputs = read_at_scoring(entry["inputs"])
split = read_split(given, int(snakemake.wildcards.split), task, inputs)
files = {name.removeprefix("external_"): file for name, file in given.items() if name.startswith("external_")}
genes = genes_of(given, inputs) if snakemake.params.joined else None
population = read_table(given.external_population)
external = read_external(files, population, split, task, inputs, snakemake.params.called, genes)
print(f"{external.rows['case_id'].nunique()} cases to score, {len(external.rows)} rows")
model_class = load_classes(snakemake.params.class_files)
weights, own = load_file(given.weights), read_table(given.predictions)
predictions, slides = predict_external(model_class, entry, task, split, external, weights, own, snakemake.threads)
write_table(predictions, snakemake.output.predictions)
write_table(slides, snakemake.output.slides)

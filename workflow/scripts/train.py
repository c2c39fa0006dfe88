"""Train one model on one split with one seed and predict every case of it."""

from pathlib import Path

from histofuse.io import hide_gpus, start_log, write_table
from histofuse.models.registry import load_classes
from histofuse.training.chosen import chosen_entry
from histofuse.training.dataset import read_split
from histofuse.training.run import Job, run, run_digest
from histofuse.training.weights import read_starts, write_weights

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
entry, task = chosen_entry(snakemake.params.model, snakemake.input.get("tuning")), snakemake.params.task
number, seed = int(snakemake.wildcards.split), int(snakemake.wildcards.seed)
checkpoint = Path(snakemake.params.checkpoint)

split = read_split(snakemake.input, number, task, entry["inputs"])
model_class = load_classes(snakemake.params.class_files)
starts = read_starts(snakemake.input.get("starts") or [], entry, split)
digest = run_digest(entry, task, split, seed, snakemake.params.code, starts)
result = run(model_class, entry, task, split, Job(number, seed, snakemake.threads, checkpoint, digest, starts))

write_table(result.history, snakemake.output.history)
write_weights(result.weights, snakemake.output.weights, entry, split)
write_table(result.slides, snakemake.output.slides)
write_table(result.predictions, snakemake.output.predictions)
checkpoint.unlink(missing_ok=True)

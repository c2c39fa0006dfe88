"""Train one model on one split with one seed and predict every case of it."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from histofuse.io import atomic, start_log, write_table
from histofuse.models.registry import load_class
from histofuse.training.chosen import chosen_entry
from histofuse.training.dataset import read_split
from histofuse.training.run import Job, run, run_digest, starting_weights

start_log(snakemake.log[0])
entry, task = chosen_entry(snakemake.params.model, snakemake.input.get("tuning")), snakemake.params.task
number, seed = int(snakemake.wildcards.split), int(snakemake.wildcards.seed)
checkpoint = Path(snakemake.params.checkpoint)

split = read_split(snakemake.input, number, task, entry["inputs"])
for name, file in snakemake.params.class_files.items():  # the model's own comes last
    model_class = load_class(name, file)
files = snakemake.input.get("starts") or []
read = [json.loads(safe_open(file, "np").metadata()["columns"]) for file in files]
starts = starting_weights(entry.get("starts_from", []), [load_file(file) for file in files], read, split)
digest = run_digest(entry, task, split, seed, snakemake.params.code, starts)
result = run(model_class, entry, task, split, Job(number, seed, snakemake.threads, checkpoint, digest, starts))

write_table(result.history, snakemake.output.history)
with atomic(snakemake.output.weights) as temporary:
    columns = json.dumps({name: scaler.names for name, scaler in split.scalers.items()})
    save_file(result.weights, temporary, metadata={"model": json.dumps(entry), "columns": columns})
write_table(result.slides, snakemake.output.slides)
write_table(result.predictions, snakemake.output.predictions)
checkpoint.unlink(missing_ok=True)

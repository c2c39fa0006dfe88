"""Choose the settings of one model on one split among trials that are judged without any test case."""

import hashlib
import json
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from histofuse.io import atomic, start_log, write_json, write_table
from histofuse.models.registry import load_class
from histofuse.training.chosen import with_settings
from histofuse.training.dataset import read_split
from histofuse.training.run import Job, run_digest, starting_weights
from histofuse.training.tuning import tune

start_log(snakemake.log[0])
entry, task, tuning = snakemake.params.model, snakemake.params.task, snakemake.params.tuning
number, folder = int(snakemake.wildcards.split), Path(snakemake.params.checkpoint)

split = read_split(snakemake.input, number, task, entry["inputs"])
for name, file in snakemake.params.class_files.items():  # the model's own comes last
    model_class = load_class(name, file)
files = snakemake.input.get("starts") or []
read = [json.loads(safe_open(file, "np").metadata()["columns"]) for file in files]
starts = starting_weights(entry.get("starts_from", []), [load_file(file) for file in files], read, split)
digest = run_digest(entry, task, split, tuning["seed"], snakemake.params.code, starts)
digest = hashlib.sha256(f"{digest}{json.dumps(tuning, sort_keys=True)}".encode()).hexdigest()
job = Job(number, tuning["seed"], snakemake.threads, folder, digest, starts)
tuned = tune(model_class, entry, task, split, tuning, job)

write_table(tuned.trials, snakemake.output.trials)
with atomic(snakemake.output.weights) as temporary:
    columns = json.dumps({name: scaler.names for name, scaler in split.scalers.items()})
    model = json.dumps(with_settings(entry, tuned.settings))
    save_file(tuned.weights, temporary, metadata={"model": model, "columns": columns})
write_json({"settings": tuned.settings, "trials": len(tuned.trials)}, snakemake.output.tuning)
shutil.rmtree(folder, ignore_errors=True)

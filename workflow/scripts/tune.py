"""Choose the settings of one model on one split among trials that are judged without any test case."""

import hashlib
import json
import shutil
from pathlib import Path

from histofuse.io import hide_gpus, start_log, write_json, write_table
from histofuse.models.registry import load_classes
from histofuse.training.chosen import with_settings
from histofuse.training.dataset import read_split
from histofuse.training.run import Job, run_digest
from histofuse.training.tuning import tune
from histofuse.training.weights import read_starts, write_weights

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
entry, task, tuning = snakemake.params.model, snakemake.params.task, snakemake.params.tuning
number, folder = int(snakemake.wildcards.split), Path(snakemake.params.checkpoint)

split = read_split(snakemake.input, number, task, entry["inputs"])
model_class = load_classes(snakemake.params.class_files)
starts = read_starts(snakemake.input.get("starts") or [], entry, split)
digest = run_digest(entry, task, split, tuning["seed"], snakemake.params.code, starts)
digest = hashlib.sha256(f"{digest}{json.dumps(tuning, sort_keys=True)}".encode()).hexdigest()
job = Job(number, tuning["seed"], snakemake.threads, folder, digest, starts)
tuned = tune(model_class, entry, task, split, tuning, job)

write_table(tuned.trials, snakemake.output.trials)
write_weights(tuned.weights, snakemake.output.weights, with_settings(entry, tuned.settings), split)
write_json({"settings": tuned.settings, "trials": len(tuned.trials)}, snakemake.output.tuning)
shutil.rmtree(folder, ignore_errors=True)

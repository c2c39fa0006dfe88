"""Train one model on one split with one seed and predict every case of it."""

import json
from pathlib import Path

from safetensors.numpy import save_file

from histofuse.io import atomic, read_table, start_log, write_table
from histofuse.models.registry import load_class
from histofuse.training.dataset import TileStore, load_split, read_columns
from histofuse.training.run import Job, run, run_digest

start_log(snakemake.log[0])
entry, task = snakemake.params.model, snakemake.params.task
number, seed = int(snakemake.wildcards.split), int(snakemake.wildcards.seed)
checkpoint = Path(snakemake.params.checkpoint)

inputs = {name: dict(options) for name, options in entry["inputs"].items()}
blocks = {name: options for name, options in inputs.items() if name != "tiles"}
for options in blocks.values():
    if isinstance(options.get("columns"), str):
        options["columns"] = read_columns(options["columns"])
tables = {name: read_table(snakemake.input[name]) for name in blocks}
selections = {
    name: read_table(snakemake.input[f"selection_{name}"], filters=[("split", "==", number)])
    for name in {options["selection"] for options in blocks.values() if "selection" in options}
}
groups = sources = tiles = None
if any("group" in options for options in blocks.values()):
    groups = read_table(snakemake.input.groups, dtype=str, keep_default_na=False)
if any(options.get("per_source") for options in blocks.values()):
    sources = read_table(snakemake.input.cases, columns=["case_id", "source"]).set_index("case_id")["source"]
if "tiles" in inputs:
    tiles = TileStore(snakemake.input.tiles, snakemake.input.index, inputs["tiles"].get("bag"))
split = load_split(
    read_table(snakemake.input.population),
    read_table(snakemake.input.splits),
    number,
    task,
    inputs,
    tables,
    tiles,
    selections=selections,
    groups=groups,
    sources=sources,
)
model_class = load_class(entry["class"], snakemake.params.class_file)
digest = run_digest(entry, task, split, seed, snakemake.params.code)
result = run(model_class, entry, task, split, Job(number, seed, snakemake.threads, checkpoint, digest))

write_table(result.history, snakemake.output.history)
with atomic(snakemake.output.weights) as temporary:
    columns = json.dumps({name: scaler.names for name, scaler in split.scalers.items()})
    save_file(result.weights, temporary, metadata={"model": json.dumps(entry), "columns": columns})
write_table(result.predictions, snakemake.output.predictions)
checkpoint.unlink(missing_ok=True)

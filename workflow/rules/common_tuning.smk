"""Tuned tables: makes the model entries of their rows, MODEL@TUNING, whose runs are trained as tuning chose."""

import re

import yaml
from jsonschema import Draft202012Validator
from snakemake.exceptions import WorkflowError

# Settings that say how a model is judged, not how it is trained.
NEVER_TUNED = {"select", "average"}


def refuse_unknown_space(tuning):
    """Refuse a tuning over a key that there is not, or with values that the key cannot have."""
    training = yaml.safe_load(SCHEMA.read_text())["$defs"]["model"]["properties"]["training"]["properties"]
    known = {key: options for key, options in training.items() if key not in NEVER_TUNED}
    for key, values in config["tunings"][tuning]["space"].items():
        where = f"tunings: {tuning}: space: {key}"
        if key not in known and not re.fullmatch(r"params(\.\w+)+", key):
            raise WorkflowError(f"{where}: is neither params.NAME nor one of {', '.join(sorted(known))}")
        if isinstance(values, dict):
            least, most = values["log"]
            if least >= most or "number" not in known.get(key, {"type": "number"}).get("type", ""):
                raise WorkflowError(f"{where}: log: needs the least and the most of a key that can be any number")
        for value in values["log"] if isinstance(values, dict) else values:
            for error in Draft202012Validator(known.get(key, {})).iter_errors(value):
                raise WorkflowError(f"{where}: {error.message}")


def tuned_entry(model, tuning):
    """The name of a model tuned in this way; makes its entry, and those of the models whose runs it needs.

    A model without `training` is fitted without gradient steps: there is nothing to tune, and its name is its own.
    """
    name, entry = f"{model}@{tuning}", resolved(model)
    if "training" not in entry:
        return model
    if name not in config["models"]:
        config["models"][name] = made = {"extends": model, "tuning": tuning}
        if "starts_from" in entry:
            stages = entry["starts_from"]
            made["starts_from"] = [stage | {"model": tuned_entry(stage["model"], tuning)} for stage in stages]
        inputs = entry.get("inputs", {})
        parents = {block: options["run"] for block, options in inputs.items() if "run" in options}
        made["inputs"] = {block: {"run": tuned_entry(parent, tuning)} for block, parent in parents.items()}
    return name


def tune_table(table):
    """Let the rows of a table, and what else it says of their models, mean the tuned ones; its note says so.

    Tables may share rows (YAML's anchors): those of this one are made anew.
    """
    tuning = config["tables"][table].get("tuning")
    if tuning is None:
        return
    if tuning not in config.get("tunings", {}):
        raise WorkflowError(f"tables: {table}: tuning: {tuning!r} is not an entry of `tunings`")
    refuse_unknown_space(tuning)
    config["tables"][table] = entry = config["tables"][table] | {
        "rows": [dict(row) for row in config["tables"][table]["rows"]]
    }
    tuned, as_they_are = {}, []
    for row, filled in zip(entry["rows"], rows_of(table)):
        known = row["model"] in config["models"] and filled.get("cohort") in config["cohorts"]
        if not known or imported(filled["cohort"]):  # what is unknown is refused with all other references
            continue
        protocol = config["protocols"].get(filled.get("protocol"), {})
        selects = resolved(row["model"]).get("training", {}).get("select") == "validation"
        if selects and protocol.get("kind") != "given" and not protocol.get("val"):
            raise WorkflowError(
                f"tables: {table}: row {row['label']!r}: its model selects its epoch on the validation part, which "
                f"{filled['protocol']} does not have; give the protocol a `val`"
            )
        tuned[row["model"]] = tuned_entry(row["model"], tuning)
        as_they_are += [row["label"]] if tuned[row["model"]] == row["model"] else []
        row["model"] = tuned[row["model"]]
    for key, values in entry.items():
        if key not in ("metrics", "rows") and isinstance(values, list):
            entry[key] = [tuned.get(value, value) for value in values]
    entry["note"] = " ".join(filter(None, [entry.get("note"), note_on_tuning(tuning, as_they_are)]))


def note_on_tuning(tuning, as_they_are):
    """What a table says of how its rows were tuned."""
    entry = config["tunings"][tuning]
    note = (
        f"Every network was tuned alike: the best of {entry['trials']} settings ({', '.join(entry['space'])}), chosen "
        "per split on its validation part or, without one, on an inner part of its training cases "
        f"({100 * entry['inner']:g} %), never on test cases."
    )
    if not as_they_are:
        return note
    return (
        f"{note} Not tuned, as they are fitted without gradient steps (a penalty is chosen by cross-validation of the "
        f"training cases): {', '.join(as_they_are)}."
    )


def with_tuned_models():
    """The names of all models, those of tuned tables with them."""
    for name in config["models"]:
        if "@" in name:
            raise WorkflowError(f"models: {name}: an @ is kept for the names of tuned models; choose another name")
    for table in config["tables"]:
        tune_table(table)
    return list(config["models"])


def tuning_of(wildcards):
    """How the model of a run is tuned."""
    return config["tunings"][MODELS[wildcards.model]["tuning"]]


def inner_splits_of(wildcards):
    """The inner splits that the model of a run is tuned on."""
    tuning = MODELS[wildcards.model]["tuning"]
    return f"results/{wildcards.cohort}/inner_splits/{wildcards.task}/{wildcards.protocol}/{tuning}.parquet"


def trials_of(table):
    """{file of the trials of a table's row: its row, model and split}; rows with the same runs count once."""
    pattern = "results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/trials.parquet"
    found = {}
    for row in rows_of(table):
        if not imported(row["cohort"]) and "tuning" in MODELS[row["model"]] and runs(row):
            for split in range(config["protocols"][row["protocol"]]["n_splits"]):
                about = {"row": row["label"], "model": row["model"], "split": split}
                found.setdefault(pattern.format(split=split, **row), about)
    return found


def tunings_shown():
    """The collected trials of every table that has some."""
    return [f"results/tunings/{table}.csv" for table in config["tables"] if trials_of(table)]

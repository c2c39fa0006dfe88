"""What all rules share: the resolved configuration, and the models whose runs a model needs."""

import copy
from pathlib import Path

from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir, "workflow", "scripts")
SURVIVAL_METRICS = {"harrell_c", "uno_c", "time_auc", "integrated_brier", "slide_harrell_c"}
GENE_GROUPS = config.get("gene_groups") or f"{workflow.basedir}/config/gene_groups.tsv"
CONFIG_FOLDERS = [Path(file).parent for file in workflow.configfiles]


def merged(base, change):
    """A nested dictionary with the values of another put over it."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        deeper = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if deeper else copy.deepcopy(value)
    return result


def resolved(name, chain=()):
    """A model entry with everything that it inherits through `extends`."""
    if name not in config["models"] or name in chain:
        problem = "is its own ancestor" if name in chain else "is not an entry of `models`"
        raise WorkflowError(f"models: {' extends '.join([*chain, name])}: {name} {problem}")
    entry = copy.deepcopy(config["models"][name])
    parent = entry.pop("extends", None)
    return merged(resolved(parent, (*chain, name)), entry) if parent else entry


def named(params, key):
    """All that nested parameters give under a key, at whatever depth; null is nothing."""
    inner = [named(value, key) for value in params.values() if isinstance(value, dict)]
    return {params.get(key)}.union(*inner) - {None}


def parents_of(model):
    """The models whose runs a model's run reads: their weights to start from, or the vectors that they make."""
    entry = MODELS[model]
    stages = [stage["model"] for stage in entry.get("starts_from", [])]
    return stages + [options["run"] for options in entry["inputs"].values() if "run" in options]


def lineage(model, chain=()):
    """A model and all whose runs it needs, at whatever remove."""
    if model in chain or model not in MODELS:
        problem = "needs its own run" if model in chain else "is not an entry of `models`"
        raise WorkflowError(f"models: {' needs '.join([*chain, model])}: {model} {problem}")
    return {model}.union(*(lineage(parent, (*chain, model)) for parent in parents_of(model)))


def rows_of(table):
    """The rows of a table, each with its cohort, task, protocol, model and seeds filled in from the table."""
    entry = config["tables"][table]
    return [
        {key: entry[key] for key in ("cohort", "task", "protocol", "seeds") if key in entry} | row
        for row in entry["rows"]
    ]


def with_crops(entry):
    """A model entry whose regions are cropped as their own entry says, where it does not say otherwise."""
    regions = entry.get("inputs", {}).get("regions", {})
    cut = config.get("slide_regions", {}).get(regions.get("regions"), {})
    for key in ("crop_px", "stride_px"):
        if key in cut:
            regions.setdefault(key, cut[key])
    return entry


MODELS = {name: with_crops(resolved(name)) for name in with_tuned_models()}


wildcard_constraints:
    cohort="|".join(config["cohorts"]),
    external="|".join(config["cohorts"]),
    task="|".join(config["tasks"]),
    protocol="|".join(config["protocols"]),
    table="|".join(config["tables"]),
    tuning="|".join(config.get("tunings", {})) or "(?!)",
    model=r"[^/]+",
    features="|".join(config.get("slide_features", {})) or "(?!)",
    selection="|".join(config.get("gene_selections", {})) or "(?!)",
    atlas="|".join(config.get("atlases", {})) or "(?!)",
    embedding="|".join(config.get("embeddings", {})) or "(?!)",
    smoothing="|".join(config.get("smoothings", {})) or "(?!)",
    bank="mixed|single|held_out_mixed|held_out_single",
    split=r"\d+",
    seed=r"\d+",

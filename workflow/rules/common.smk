"""What all rules share: the resolved configuration, and the models whose runs a model needs."""

import copy
import re
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


def one_of(names):
    """A regular expression of these names and nothing else, for wildcard constraints; without any it fits nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def without(entry, *keys):
    """An entry without the keys that change no result, so that a job is not run again for another value of them."""
    return {key: value for key, value in entry.items() if key not in keys}


def model_settings(model, task=None):
    """What of a model's entry decides about a run: all but what its jobs may take of the machine.

    Of a network that is trained for a task, with what the task has otherwise.
    """
    entry = without(MODELS[model], "gpu", "mem_mb", "runtime")
    changed = config["tasks"][task].get("training", {}) if task else {}
    return merged(entry, {"training": changed}) if changed and "training" in entry else entry


def task_settings(task):
    """What of a task decides about populations and predictions: not its name, nor how its networks are trained."""
    return without(config["tasks"][task], "label", "training")


def cohort_settings(cohort):
    """What of a cohort decides about its files and cases: all but its name for readers."""
    return without(config["cohorts"][cohort], "label")


def features_settings(features):
    """What of an entry of slide_features decides about a slide's features: not what may fail, nor a job's resources."""
    return without(config["slide_features"][features], "max_excluded", "gpu", "mem_mb", "runtime", "threads")


def regions_settings(regions):
    """What of an entry of slide_regions decides about a slide's regions: not how many slides may fail."""
    return without(config["slide_regions"][regions], "max_excluded")


MODELS = {name: with_crops(resolved(name)) for name in with_tuned_models()}


wildcard_constraints:
    cohort=one_of(config["cohorts"]),
    external=one_of(config["cohorts"]),
    task=one_of(config["tasks"]),
    protocol=one_of(config["protocols"]),
    table=one_of(config["tables"]),
    tuning=one_of(config.get("tunings", {})),
    model=r"[^/]+",
    features=one_of(config.get("slide_features", {})),
    selection=one_of(config.get("gene_selections", {})),
    atlas=one_of(config.get("atlases", {})),
    embedding=one_of(config.get("embeddings", {})),
    smoothing=one_of(config.get("smoothings", {})),
    bank="mixed|single|held_out_mixed|held_out_single",
    split=r"\d+",
    seed=r"\d+",

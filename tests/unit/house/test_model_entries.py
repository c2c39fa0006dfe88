"""Every entry of config/models.yaml fits the class that it names: a model can be made of it."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from merged_entries import merged

from histofuse.io import InputError
from histofuse.models.registry import Estimator, load_class

ROOT = Path(__file__).parents[3]
ENTRIES = yaml.safe_load((ROOT / "config" / "models.yaml").read_text())["models"]


def resolved(name):
    """An entry with all that it inherits."""
    entry = copy.deepcopy(ENTRIES[name])
    parent = entry.pop("extends", None)
    return merged(resolved(parent), entry) if parent else entry


def without_weights(params):
    """Parameters as they are where the files of released weights are not: what would be frozen is trained."""
    inner = {key: without_weights(value) if isinstance(value, dict) else value for key, value in params.items()}
    kept = {key: value for key, value in inner.items() if key != "checkpoint"}
    return kept | ({"frozen": False} if params.get("class", "").endswith(":VGG") else {})


def shapes_of(inputs):
    """What a model is told of its inputs: bags of 1024 numbers a tile, regions, tables of 120 columns."""
    shapes = {}
    for name, options in inputs.items():
        if "run" in options:
            hidden = options.get("training_only")
            shapes |= {} if hidden else {f"{name}.{vector}": (32,) for vector in options["vectors"]}
            continue
        side = options.get("input_px") or 224
        shapes[name] = (3, side, side) if name == "regions" else (1024,) if "features" in options else (120,)
    return shapes


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_a_model_can_be_made_of_the_entry(name):
    entry = resolved(name)
    if "class" not in entry:  # it only says what others have in common
        assert name in {other.get("extends") for other in ENTRIES.values()}
        return
    model, params = load_class(entry["class"]), without_weights(entry.get("params", {}))
    if issubclass(model, Estimator):
        assert set(params.get("penalised", [])) <= set(entry["inputs"])
        model(**params)
        return
    try:
        with torch.device("meta"):
            made = model(shapes_of(entry["inputs"]), 4, **params)
    except InputError:  # an entry that only says what others have in common, which lack nothing
        assert name in {other.get("extends") for other in ENTRIES.values()}
        return
    branches = made.branches() if hasattr(made, "branches") else {}
    training = entry["training"]
    named = {*training.get("branch_lr", {}), *training.get("frozen", {}), training.get("l1_branch")} - {None}
    assert named <= set(branches)

"""Weights files of runs: what is kept beside the numbers, and what a later run takes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from histofuse.io import InputError, atomic
from histofuse.training.dataset import Split


def write_weights(weights: dict[str, np.ndarray], path: str | Path, entry: dict, split: Split) -> None:
    """Write a run's weights with its model entry, as it was trained, and the columns {block: [name]} that it read."""
    columns = json.dumps({name: scaler.names for name, scaler in split.scalers.items()})
    with atomic(path) as temporary:
        save_file(weights, temporary, metadata={"model": json.dumps(entry), "columns": columns})


def entry_of(path: str | Path) -> dict:
    """The model entry that is kept with a run's weights."""
    return json.loads(safe_open(path, "np").metadata()["model"])


def read_starts(files: Sequence[str | Path], entry: dict, split: Split) -> dict[str, np.ndarray]:
    """The weights that the runs of an entry's `starts_from` hand on: see `starting_weights`; `files` in its order."""
    columns = [json.loads(safe_open(file, "np").metadata()["columns"]) for file in files]
    return starting_weights(entry.get("starts_from", []), [load_file(file) for file in files], columns, split)


def starting_weights(
    stages: list[dict], runs: list[dict[str, np.ndarray]], columns: list[dict[str, list[str]]], split: Split
) -> dict[str, np.ndarray]:
    """The weights that earlier runs hand on, under the names that they have in this model.

    Args:
        stages: of the entry's `starts_from`: `model` and `weights` {prefix of a name in that run: prefix here}, without
            which all are taken.
        runs, columns: of each of these runs the weights, and the columns {block: [name]} that it read.
        split: of this run, the same as theirs.
    Raises InputError when a prefix fits no weight, or the runs read other columns of a block than this one.
    """
    found = {}
    for stage, weights, read in zip(stages, runs, columns, strict=True):
        where = f"starts_from: {stage['model']}"
        for name in read.keys() & split.scalers.keys():
            if read[name] != split.scalers[name].names:
                raise InputError(f"{where}: it read other columns of {name} than this model; give both the same inputs")
        for old, new in stage.get("weights", {"": ""}).items():
            names = [name for name in weights if name.startswith(old) and not name.startswith("scaling.")]
            if not names:
                known = ", ".join(sorted({name.partition(".")[0] for name in weights} - {"scaling"}))
                raise InputError(f"{where}: weights: no name begins with {old!r}; there are {known}")
            found |= {new + name.removeprefix(old): weights[name] for name in names}
    return found

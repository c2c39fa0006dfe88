"""One run: a model entry on one split of a task with one seed, to predictions for every case of the split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, sha256
from histofuse.models.registry import Estimator
from histofuse.training.dataset import Split
from histofuse.training.heads import Head

DEFAULT_LOSS = {"survival": {"name": "cox"}, "classification": {"name": "cross_entropy"}}


@dataclass(frozen=True)
class Job:
    """Which run this is: split number and seed, the threads it may use, and where an interrupted run goes on.

    `digest` is that of everything the result depends on (`run_digest`); see `histofuse.training.loop.fit`.
    """

    number: int
    seed: int
    threads: int
    checkpoint: Path
    digest: str


@dataclass
class Result:
    """Of one run: predictions per case, history per epoch, weights {name: array} and what describes them."""

    predictions: pd.DataFrame
    history: pd.DataFrame
    weights: dict[str, np.ndarray]


def run(
    model_class: type,
    entry: dict,
    task: dict,
    split: Split,
    job: Job,
) -> Result:
    """Fit on the training part, predict every case.

    Args:
        model_class: an `Estimator` or a torch module; entry: its resolved config entry; task: its config entry.
    """
    train = split.part("train")
    target = split.target.take(train)
    head = make_head(entry, task, split)
    parameters = entry.get("params", {})
    if not issubclass(model_class, Estimator) and "training" not in entry:
        raise InputError(
            f"{model_class.__name__} is trained by gradient steps: its entry needs `training` (epochs, lr)"
        )
    if issubclass(model_class, Estimator):
        model = model_class(**parameters).fit(_rows(split.blocks, train), target)
        outputs, weights, history = model.predict(split.blocks), model.weights(), pd.DataFrame()
    else:
        outputs, weights, history = _fit_network(model_class, parameters, entry["training"], split, head, job)
    history = history if len(history) else pd.DataFrame({"epoch": pd.Series(dtype=int), "loss": pd.Series(dtype=float)})
    return Result(head.predictions(outputs, split, job.number, job.seed), history, weights | _scaling(split))


def make_head(entry: dict, task: dict, split: Split) -> Head:
    """The head of a run: its loss is the entry's, or the task's, or the usual one of the task's kind."""
    loss = entry.get("loss") or task.get("loss") or DEFAULT_LOSS[task["kind"]]
    return Head(split.target.take(split.part("train")), loss, entry.get("aggregate"))


def run_digest(entry: dict, task: dict, split: Split, seed: int, code: str) -> str:
    """Digest of all that a run's result depends on: entry, task, seed, code, weights to start from, assembled data.

    Of tiles and regions the index and some values of each are read, not the gigabytes.
    """
    sha = hashlib.sha256(json.dumps([entry, task, seed, code], sort_keys=True).encode())
    sha.update(split.rows.to_csv().encode())
    for values in (split.target.time, split.target.event, split.target.label, *split.blocks.values()):
        sha.update(np.ascontiguousarray(values).tobytes())
    if split.tiles is not None:
        sha.update(split.tiles.index.to_csv().encode())
        for slide in split.rows["slide_id"]:
            sha.update(split.tiles.features(slide)[0].tobytes())
    if split.regions is not None:
        sha.update(split.regions.index.to_csv().encode())
        for region in split.rows["region"]:
            sha.update(split.regions.sample(region))
    for file in weights_in(entry.get("params", {})):
        sha.update(sha256(file).encode())
    return sha.hexdigest()


def weights_in(params: dict) -> list[str]:
    """The files that parameters name as `checkpoint`, at whatever depth: weights that a model starts from."""
    found = {value for key, value in params.items() if key == "checkpoint" and value}
    return sorted(found.union(*(weights_in(value) for value in params.values() if isinstance(value, dict))))


def _fit_network(model_class, parameters, training, split, head, job):
    import torch

    from histofuse.training.loop import Batches, Settings, choose_device, fit, predict

    torch.set_num_threads(job.threads)
    settings = Settings(**training)
    model, history = fit(
        lambda: model_class(split.shapes, head.outputs, **parameters),
        split,
        head.torch_loss(split, settings.rule),
        head.criterion(split),
        settings,
        job.seed,
        job.checkpoint,
        job.digest,
    )
    outputs = predict(model, Batches(split, choose_device()), np.arange(len(split.rows)))
    return outputs, {name: value.cpu().numpy() for name, value in model.state_dict().items()}, history


def _rows(blocks: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in blocks.items()}


def _scaling(split: Split) -> dict[str, np.ndarray]:
    """What a prediction on new cases would need beside the weights: all that the scalers learnt."""
    arrays = {
        f"scaling.{name}.{key}": np.ascontiguousarray(values)
        for name, scaler in split.scalers.items()
        for key, values in scaler.arrays().items()
    }
    if split.tile_scale is not None:
        arrays |= {"scaling.tiles.mean": split.tile_scale[0], "scaling.tiles.sd": split.tile_scale[1]}
    return arrays

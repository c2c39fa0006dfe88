"""One run: a model entry on one split of a task with one seed, to predictions for every case of the split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, sha256
from histofuse.models.registry import Estimator
from histofuse.training.dataset import Split
from histofuse.training.heads import Head
from histofuse.training.vectors import vectors_table

DEFAULT_LOSS = {"survival": {"name": "cox"}, "classification": {"name": "cross_entropy"}}


@dataclass(frozen=True)
class Job:
    """Which run this is: split number and seed, the threads it may use, and where an interrupted run goes on.

    `digest` is that of everything the result depends on (`run_digest`); see `histofuse.training.loop.fit`. `starts`:
    weights {name: array} of the model that the run starts from, see `training.weights`.
    """

    number: int
    seed: int
    threads: int
    checkpoint: Path
    digest: str
    starts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Result:
    """Of one run: predictions per case and per slide, history per epoch, weights {name: array} and what describes them.

    `slides` is empty where the run's rows are cases.
    """

    predictions: pd.DataFrame
    slides: pd.DataFrame
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
    Raises `loop.DivergedError`, an InputError, where training or the predictions leave the finite numbers.
    """
    train = split.part("train")
    target = split.target.take(train)
    head = make_head(entry, task, split, model_class)
    parameters = entry.get("params", {})
    if not issubclass(model_class, Estimator) and "training" not in entry:
        raise InputError(
            f"{model_class.__name__} is trained by gradient steps: its entry needs `training` (epochs, lr)"
        )
    parts = {}
    if issubclass(model_class, Estimator):
        model = model_class(**parameters).fit(_rows(split.blocks, train), target)
        outputs, weights, history = model.predict(split.blocks), model.weights(), pd.DataFrame()
    else:
        outputs, parts, weights, history = _fit_network(model_class, parameters, entry["training"], split, head, job)
    history = history if len(history) else pd.DataFrame({"epoch": pd.Series(dtype=int), "loss": pd.Series(dtype=float)})
    predictions = head.predictions(outputs, split, job.number, job.seed)
    slides = head.slide_predictions(outputs, split, job.number, job.seed)
    return Result(predictions.assign(**head.risk_of_parts(parts, split)), slides, history, weights | scaling_of(split))


def make_head(entry: dict, task: dict, split: Split, model_class: type | None = None) -> Head:
    """The head of a run: its loss is the entry's, or the task's, or the usual one of the task's kind.

    A task's loss is for networks: an `Estimator` fits what is usual whatever the task says.
    """
    of_task = None if model_class is not None and issubclass(model_class, Estimator) else task.get("loss")
    loss = entry.get("loss") or of_task or DEFAULT_LOSS[task["kind"]]
    train = split.part("train")
    first = train[~split.rows["case_id"].iloc[train].duplicated().to_numpy()]
    return Head(split.target.take(train), loss, entry.get("aggregate"), split.target.take(first))


def run_digest(
    entry: dict, task: dict, split: Split, seed: int, code: str, starts: dict[str, np.ndarray] | None = None
) -> str:
    """Digest of all that a run's result depends on: entry, task, seed, code, weights to start from, assembled data.

    Of tiles the index and some values of each slide are read, of regions the index, which holds the digest of each: not
    the gigabytes.
    """
    sha = hashlib.sha256(json.dumps([entry, task, seed, code], sort_keys=True).encode())
    sha.update(split.rows.to_csv().encode())
    for values in (split.target.time, split.target.event, split.target.label, *split.blocks.values()):
        sha.update(np.ascontiguousarray(values).tobytes())
    for store in split.bags.values():
        sha.update(store.index.to_csv().encode())
        for slide in split.rows["slide_id"]:
            sha.update(store.tiles[store.rows(slide)[0]].tobytes())
    if split.regions is not None:
        sha.update(split.regions.index.to_csv().encode())
    for name, values in sorted((starts or {}).items()):
        sha.update(name.encode() + np.ascontiguousarray(values).tobytes())
    for file in weights_in(entry.get("params", {})):
        sha.update(sha256(file).encode())
    return sha.hexdigest()


def weights_in(params: dict) -> list[str]:
    """The files that parameters name as `checkpoint`, at whatever depth: weights that a model starts from."""
    found = {value for key, value in params.items() if key == "checkpoint" and value}
    return sorted(found.union(*(weights_in(value) for value in params.values() if isinstance(value, dict))))


def trained_model(model_class: type, entry: dict, split: Split, head: Head, weights: dict[str, np.ndarray]):
    """The torch module of a run, from its weights, on the device and in evaluation mode.

    Raises InputError when the weights do not fit.
    """
    import torch

    from histofuse.training.loop import choose_device

    model = model_class(split.shapes, head.outputs, **entry.get("params", {}))
    learnt = {name: torch.from_numpy(values) for name, values in weights.items() if not name.startswith("scaling.")}
    try:
        model.load_state_dict(learnt)
    except RuntimeError as error:
        raise InputError(
            f"the weights do not fit {model_class.__name__} on this split ({error}); train again"
        ) from error
    return model.to(choose_device()).eval()


def run_vectors(model_class: type, entry: dict, task: dict, split: Split, weights: dict[str, np.ndarray], threads: int):
    """The vectors of every row of a run's split, as `vectors_table` lays them out, for runs that read them.

    Raises InputError when the class makes none.
    """
    import torch

    from histofuse.training.loop import Batches, choose_device
    from histofuse.training.predict import evaluate

    if not hasattr(model_class, "vectors"):
        raise InputError(
            f"inputs: run: {model_class.__name__} has no method vectors, by which it makes them for others"
        )
    torch.set_num_threads(threads)
    model = trained_model(model_class, entry, split, make_head(entry, task, split), weights)
    batches = Batches(split, choose_device())
    return vectors_table(split.rows, batches.views, evaluate(model.vectors, model, batches, np.arange(len(split.rows))))


def _fit_network(model_class, parameters, training, split, head, job):
    import torch

    from histofuse.training.loop import Batches, DivergedError, Settings, choose_device, fit
    from histofuse.training.predict import outputs_and_parts

    torch.set_num_threads(job.threads)
    settings = Settings(**training)

    def build():
        model = model_class(split.shapes, head.outputs, **parameters)
        state = model.state_dict()
        for name, values in job.starts.items():
            if name not in state or state[name].shape != values.shape:
                there = tuple(state[name].shape) if name in state else "nothing of that name"
                raise InputError(f"starts_from: {name} has shape {values.shape}, the model has {there}")
        model.load_state_dict(state | {name: torch.from_numpy(values) for name, values in job.starts.items()})
        return model

    model, history = fit(
        build,
        split,
        head.torch_loss(split, settings.rule),
        head.criterion(split),
        settings,
        job.seed,
        job.checkpoint,
        job.digest,
    )
    outputs, parts = outputs_and_parts(model, Batches(split, choose_device()), np.arange(len(split.rows)))
    if not np.isfinite(outputs).all():
        raise DivergedError(
            f"a prediction of the trained model is not a finite number; lower training: lr ({settings.lr})"
        )
    return outputs, parts, {name: value.cpu().numpy() for name, value in model.state_dict().items()}, history


def _rows(blocks: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in blocks.items()}


def scaling_of(split: Split) -> dict[str, np.ndarray]:
    """{scaling.…: values}, what a prediction on new cases needs beside the weights: all that the scalers learnt."""
    arrays = {
        f"scaling.{name}.{key}": np.ascontiguousarray(values)
        for name, scaler in split.scalers.items()
        for key, values in scaler.arrays().items()
    }
    for name, (mean, sd) in split.bag_scales.items():
        arrays |= {f"scaling.{name}.mean": mean, f"scaling.{name}.sd": sd}
    return arrays

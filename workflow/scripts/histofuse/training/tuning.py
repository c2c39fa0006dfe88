"""Tuning of one model on one split: the same number of settings for every model, judged without any test case.

Settings are drawn by a hash of seed, number of the draw and key, so that two models get the same values of the keys
that both have, and neither a version of a random generator nor another key changes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from histofuse.evaluation.classification import macro_auc
from histofuse.evaluation.survival import harrell_c
from histofuse.evaluation.undefined import Undefined
from histofuse.io import InputError, atomic, progress, write_json
from histofuse.training.chosen import with_settings
from histofuse.training.dataset import Split
from histofuse.training.loop import DivergedError
from histofuse.training.run import Job, Result, run
from histofuse.training.settings import Settings


@dataclass
class Tuned:
    """What tuning found.

    settings: {key: value} of the best trial; `training` keys as they are, others as `params.name`. trials: one row per
    trial, `trial, settings` (as JSON), `metric` (of the inner validation part, the larger the better; NaN where the
    trial failed), `seconds, failed` (why, or empty), `chosen`. weights: {name: array} of the best trial, as of a run.
    """

    settings: dict
    trials: pd.DataFrame
    weights: dict[str, np.ndarray]


def draw_trials(tuning: dict, entry: dict) -> list[dict]:
    """The settings {key: value} to try with a model: the entry's own, then those drawn, none twice.

    Args:
        tuning: `space` ({key: values, or {"log": [least, most]}}), `trials` (how many, the entry's own included; all
            there are where that is fewer) and `seed`.
        entry: of the model. Keys `params.name` that it does not have are left out.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    own = {}
    for key in sorted(tuning["space"]):
        if not key.startswith("params."):
            value = entry["training"].get(key, defaults[key])
            own[key] = list(value) if isinstance(value, tuple) else value
        elif _has(entry, key):
            own[key] = _value(entry, key)
    space = {key: tuning["space"][key] for key in own}
    wanted = tuning["trials"] if own else 1
    if all(isinstance(values, list) for values in space.values()):
        known = all(own[key] in values for key, values in space.items())
        different = (sum(value not in values[:k] for k, value in enumerate(values)) for values in space.values())
        wanted = min(wanted, math.prod(different) + (not known))
    found, draw = [own], 0
    while len(found) < wanted:
        settings = {key: _drawn(values, f"{tuning['seed']}/{draw}/{key}") for key, values in space.items()}
        if settings not in found:
            found.append(settings)
        draw += 1
    return found


def tune(model_class: type, entry: dict, task: dict, split: Split, tuning: dict, job: Job) -> Tuned:
    """Train every trial on the training part of an inner split and choose the best on its validation part.

    Args:
        model_class, entry, task: as for `run`. split: the inner one, "train" and "val" alone. tuning: as for
            `draw_trials`.
        job: its `checkpoint` is a folder, where a killed tuning goes on at the trial, and the epoch, that it was at.
    Of equally good trials the first is chosen. A trial whose loss or predictions are not finite is recorded as failed.
    Raises InputError when the split holds a test case, the inner validation part cannot be scored or every trial fails.
    """
    if len(split.part("test")):
        raise InputError("tuning: the split holds test cases; give it the inner one")
    candidates = draw_trials(tuning, entry)
    folder = job.checkpoint
    trials, weights = _resume(folder, job.digest, len(candidates))
    for number in progress(range(len(trials), len(candidates)), "trials"):
        settings = candidates[number]
        digest = hashlib.sha256(f"{job.digest}{json.dumps(settings)}".encode()).hexdigest()
        checkpoint = folder / f"trial{number}.pt"
        start = time.perf_counter()
        metric, failed, result = math.nan, "", None
        try:
            result = run(
                model_class,
                with_settings(entry, settings),
                task,
                split,
                replace(job, checkpoint=checkpoint, digest=digest),
            )
            metric = _metric(result, task["kind"], job.number)
        except DivergedError as error:
            failed = str(error)
        print(f"trial {number}: {json.dumps(settings)}: {failed or f'{metric:.4f}'}", flush=True)
        best = _best(trials)
        trials.append({"settings": settings, "metric": None if failed else metric} | {"failed": failed})
        trials[-1]["seconds"] = time.perf_counter() - start
        if _best(trials) != best:
            weights = result.weights
            with atomic(folder / "best.safetensors") as temporary:
                save_file(weights, temporary)
        write_json({"digest": job.digest, "trials": trials}, folder / "trials.json")
        checkpoint.unlink(missing_ok=True)
    best = _best(trials)
    if best is None:
        raise InputError(f"tuning: all {len(trials)} trials failed; the first: {trials[0]['failed']}")
    frame = pd.DataFrame(
        {
            "trial": range(len(trials)),
            "settings": [json.dumps(trial["settings"]) for trial in trials],
            "metric": [math.nan if trial["metric"] is None else trial["metric"] for trial in trials],
            "seconds": [trial["seconds"] for trial in trials],
            "failed": [trial["failed"] for trial in trials],
            "chosen": [number == best for number in range(len(trials))],
        }
    )
    return Tuned(candidates[best], frame, weights)


def _metric(result: Result, kind: str, number: int) -> float:
    """Harrell C or macro AUC of the cases of the validation part."""
    val = result.predictions.query("part == 'val'")
    try:
        if kind == "classification":
            return macro_auc(val["label"].to_numpy(np.int64), np.stack(val["probabilities"]))
        return harrell_c(
            val["risk"].to_numpy(np.float64), val["time_days"].to_numpy(np.float64), val["event"].to_numpy(np.int64)
        )
    except Undefined as error:
        raise InputError(
            f"tuning: split {number}: the inner validation part of {len(val)} cases cannot be scored ({error}); "
            "give tunings: inner a larger share, or the protocol a larger val"
        ) from error


def _best(trials: list[dict]) -> int | None:
    """The number of the best trial, the first of equals; None when none has a metric."""
    scored = [number for number, trial in enumerate(trials) if trial["metric"] is not None]
    return max(scored, key=lambda number: trials[number]["metric"], default=None)


def _resume(folder: Path, digest: str, trials: int) -> tuple[list[dict], dict[str, np.ndarray]]:
    """(finished trials, weights of the best of them) of a killed tuning of the same digest, otherwise nothing."""
    try:
        state = json.loads((folder / "trials.json").read_text())
    except (OSError, ValueError):
        return [], {}
    if state["digest"] != digest:
        print(f"{folder}: made with other data, settings or code; starting from the first trial", flush=True)
        return [], {}
    print(f"{folder}: {len(state['trials'])} of {trials} trials are done", flush=True)
    file = folder / "best.safetensors"
    return state["trials"], load_file(file) if _best(state["trials"]) is not None else {}


def _drawn(values: list | dict, key: str):
    """One of the values, or a number between two on a logarithmic scale, to three digits."""
    share = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    if isinstance(values, list):
        return values[int(share * len(values))]
    least, most = values["log"]
    return float(f"{least * (most / least) ** share:.3g}")


def _has(entry: dict, key: str) -> bool:
    try:
        _value(entry, key)
    except (KeyError, TypeError):
        return False
    return True


def _value(entry: dict, key: str):
    for name in key.split("."):
        entry = entry[name]
    return entry

"""The contract of a predictions file, checked once before anything is computed from it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.io import InputError

PARTS = ("train", "val", "test")
COLUMNS = [
    "case_id",
    "part",
    "split",
    "seed",
    "time_days",
    "event",
    "label",
    "risk",
    "survival_times",
    "survival",
    "probabilities",
]


def check_predictions(predictions: pd.DataFrame, kind: str, unit: str = "case_id") -> None:
    """Raise InputError naming the column or case where a frame of predictions breaks its contract.

    Needed: the columns COLUMNS and `unit`, of which each value occurs at most once per split and seed; for `kind`
    "survival" finite risks, times and events, and survival curves (or null) as long as their times; for
    "classification" a label per case and probabilities that sum to 1.
    """
    if kind not in {"survival", "classification"}:
        raise InputError(f"kind is {kind!r}; needed: survival or classification")
    missing = [name for name in dict.fromkeys([*COLUMNS, unit]) if name not in predictions]
    if missing:
        raise InputError(f"the predictions lack the column {', '.join(missing)}")
    if predictions.empty:
        raise InputError("the predictions hold no case")
    _refuse(predictions, ~predictions["part"].isin(PARTS), f"has a part other than {', '.join(PARTS)}")
    for name in ("split", "seed"):
        _refuse(predictions, predictions[name].isna(), f"has no {name}")
    repeated = predictions.duplicated(["split", "seed", unit], keep="first")
    what = "" if unit == "case_id" else f"has a {unit} that "
    _refuse(predictions, repeated, f"{what}occurs more than once in a split, in one part or in two")
    _check_survival(predictions) if kind == "survival" else _check_classification(predictions)


def _check_survival(predictions: pd.DataFrame) -> None:
    for name in ("risk", "time_days", "event"):
        values = pd.to_numeric(predictions[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        _refuse(predictions, ~np.isfinite(values), f"has a {name} that is not a finite number")
    _refuse(predictions, predictions["time_days"] < 0, "has a negative time")
    _refuse(predictions, ~predictions["event"].isin((0, 1)), "has an event other than 0 and 1")

    no_curve = predictions["survival_times"].isna() | predictions["survival"].isna()
    if no_curve.all():
        return
    _refuse(predictions, no_curve, "has no survival curve although others have one")
    for _, run in predictions.groupby(["split", "seed"]):
        times = np.asarray(run["survival_times"].iloc[0], dtype=np.float64)
        if times.size == 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise InputError("survival_times must be finite and increase from one to the next")
        other = [not np.array_equal(np.asarray(row), run["survival_times"].iloc[0]) for row in run["survival_times"]]
        _refuse(run, np.array(other), "has other survival_times than the rest of its run")
        curves = [np.asarray(row, dtype=np.float64) for row in run["survival"]]
        _refuse(
            run,
            np.array([c.size != times.size for c in curves]),
            "has a survival curve of another length than its times",
        )
        # 1e-6: float32 curves may round just past 1
        outside = [not ((c >= -1e-6) & (c <= 1 + 1e-6)).all() for c in curves]
        _refuse(run, np.array(outside), "has a survival probability outside 0 to 1")


def _check_classification(predictions: pd.DataFrame) -> None:
    _refuse(predictions, predictions["label"].isna(), "has no label")
    _refuse(predictions, predictions["probabilities"].isna(), "has no probabilities")
    rows = [np.asarray(row, dtype=np.float64) for row in predictions["probabilities"]]
    classes = rows[0].size
    _refuse(
        predictions,
        np.array([r.size != classes for r in rows]),
        f"has not {classes} probabilities like the first",
    )
    rows = np.stack(rows)
    _refuse(
        predictions,
        ~np.isfinite(rows).all(axis=1) | (rows < 0).any(axis=1),
        "has a probability that is not ≥ 0",
    )
    # 1e-4: probabilities come from a float32 softmax
    _refuse(predictions, np.abs(rows.sum(axis=1) - 1) > 1e-4, "has probabilities that do not sum to 1")
    labels = predictions["label"].isin(range(classes))
    _refuse(predictions, ~labels, f"has a label that is not a whole number from 0 to {classes - 1}")


def _refuse(predictions: pd.DataFrame, bad, reason: str) -> None:
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row = predictions.iloc[int(np.argmax(bad))]
        others = f" (and {bad.sum() - 1} more rows)" if bad.sum() > 1 else ""
        raise InputError(f"predictions: case {row['case_id']} of split {row['split']} {reason}{others}")

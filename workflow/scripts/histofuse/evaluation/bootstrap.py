"""Intervals and tests of models that were all scored on the same cases: of one split, or of another cohort.

What makes the mean over such models uncertain is which cases there are: its interval is that of a bootstrap over these
cases, with one set of resamples (`resampling`) for all models of all rows. Differences between rows are taken within
each resample. It says nothing of how a model would differ with other training cases; a spread over splits does.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

LEVEL = 0.95
MIN_SHARE = 0.5  # of the resamples that must have a value, for an interval of those that have


def mean_replicates(models: pd.DataFrame) -> np.ndarray | None:
    """Replicates of the mean over splits of the mean over seeds; None where a model has none, or the cases differ.

    models: `split, seed, replicates, cases` of those models that make up the estimate.
    """
    if models.empty or models["replicates"].isna().any() or models["cases"].nunique() > 1:
        return None
    of_splits = [np.mean(np.stack(part["replicates"].to_list()), axis=0) for _, part in models.groupby("split")]
    return np.mean(of_splits, axis=0)


def percentile_interval(values: np.ndarray | None, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of replicates [resample]; NaN where too few of them have a value."""
    known = _known(values)
    if known is None:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(ours: np.ndarray | None, theirs: np.ndarray | None) -> float:
    """Two-sided bootstrap p that two means over the same resamples are equal; NaN without replicates of both.

    Twice the smaller share of resamples whose difference lies on either side of 0, each counted with the data
    themselves, so never below 2 / (resamples + 1). Equal models give 1.
    """
    difference = None if ours is None or theirs is None else _known(ours - theirs)
    if difference is None:
        return np.nan
    smaller = min((difference <= 0).sum(), (difference >= 0).sum())
    return float(min(1.0, 2 * (1 + smaller) / (1 + len(difference))))


def _known(values: np.ndarray | None) -> np.ndarray | None:
    if values is None or np.isfinite(values).sum() < MIN_SHARE * len(values):
        return None
    return values[np.isfinite(values)]

"""Metrics of models on the cases of another cohort, which all of them share, and replicates for intervals and tests.

All models (splits × seeds) are scored on the same cases, so what makes their mean uncertain is which cases there are:
the interval is that of a bootstrap over these cases, with one set of resamples for all models of all rows. Differences
between rows are taken within each resample. It says nothing of how a model would differ with other training cases; the
spread over splits does.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from histofuse.evaluation.resampling import draw_counts, replicates
from histofuse.evaluation.score import score_run

COLUMNS = ["split", "seed", "metric", "replicates", "cases"]
LEVEL = 0.95
MIN_SHARE = 0.5  # of the resamples that must have a value, for an interval of those that have


def score_external(predictions: pd.DataFrame, slides: pd.DataFrame | None, kind: str) -> pd.DataFrame:
    """Metrics of one model's external cases, like `score_run`, with the columns `replicates` and `cases` beside them.

    Censoring weights (Uno's C, time-dependent AUC, Brier score) are estimated on the external cases: they undo how
    long these patients were followed, which the training cohort does not know. `slides`: predictions of the same
    cases' slides, or nothing where there are none. `replicates`: the metric's value in each resample of the cases
    (None where there is none); `cases`: digest of the cases and outcomes, by which
    replicates of two models are known to be paired. Raises InputError where the predictions break their contract.
    """
    metrics = score_run(predictions, kind, slides, own_censoring=True)
    test = predictions[predictions["part"] == "test"].sort_values("case_id", ignore_index=True)
    counts = draw_counts(len(test))
    found = replicates(test, kind, counts)
    if slides is not None and not slides.empty:  # a case is drawn with all its slides
        of_slides = counts[:, pd.Index(test["case_id"]).get_indexer(slides["case_id"])]
        found |= {f"slide_{name}": values for name, values in replicates(slides, kind, of_slides).items()}
    outcome = test[["case_id", "time_days", "event", "label"]].to_csv(index=False)
    return metrics.assign(
        replicates=[found.get(name) for name in metrics["metric"]],
        cases=hashlib.sha256(outcome.encode()).hexdigest()[:16],
    )


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

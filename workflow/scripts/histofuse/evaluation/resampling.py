"""Metrics of one model on many resamples of the cases at once, for intervals and tests on cases that models share.

A resample is a vector of how often each case was drawn, so that all of them are products of the matrix of these counts
with matrices of cases. Each replicate is what the metric's own function gives on the drawn cases. Censoring weights of
the training part stay as they are; those of the scored cases themselves are estimated anew from what was drawn. Uno's
C keeps its horizon, and curves their times.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.evaluation import survival
from histofuse.evaluation.classification import check_classes
from histofuse.evaluation.undefined import Undefined

RESAMPLES = 1000


def draw_counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of `n` cases is drawn, float64 [resample, case]; the same for all models of a cohort."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def replicates(
    cases: pd.DataFrame, kind: str, counts: np.ndarray, train: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """{metric: float64 [resample]}, NaN where the drawn cases have no answer (no death, a class without a case).

    Args:
        cases: predictions (columns of `predictions`) of one model, a row per case. kind: of the task.
        counts: as of `draw_counts`. train: as of `of_survival`.
    A metric that these cases cannot answer at all is absent.
    """
    if kind == "classification":
        probabilities = np.stack([np.asarray(row, dtype=np.float64) for row in cases["probabilities"]])
        return of_classes(cases["label"].to_numpy(np.int64), probabilities, counts)
    time, event, risk = (cases[name].to_numpy(np.float64) for name in ("time_days", "event", "risk"))
    curves = times = None
    if not cases["survival_times"].isna().any():
        times = np.asarray(cases["survival_times"].iloc[0], dtype=np.float64)
        curves = np.stack([np.asarray(row, dtype=np.float64) for row in cases["survival"]])
    return of_survival(time, event, risk, counts, times, curves, train)


def of_survival(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    counts: np.ndarray,
    times: np.ndarray | None = None,
    curves: np.ndarray | None = None,
    train: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Replicates of harrell_c and uno_c, and with curves [case, time] at `times` of time_auc and integrated_brier.

    `train` holds times and events of the training part, whose censoring weights and horizon of Uno's C hold in every
    resample; metrics that need them are absent where it is empty. Without it both come from the cases themselves.
    """
    try:
        comparable, score = survival.concordance_pairs(*survival.check_survival(time, event, risk=risk))
    except Undefined:
        return {}
    died = np.flatnonzero(event)
    comparable = comparable.astype(np.float64)
    drawn = counts[:, died]
    found = {"harrell_c": _ratio(((drawn @ score) * counts).sum(1), ((drawn @ comparable) * counts).sum(1))}
    if train is not None and len(train[0]) == 0:
        return found

    def inverse_uncensored(at: np.ndarray) -> np.ndarray:
        """1 / chance of being uncensored beyond `at`: [resample, len(at)], or [1, len(at)] of the training part."""
        own = train is None
        chance = _uncensored(time, event, counts, at) if own else survival.censoring_survival(*train, at)[None]
        return _ratio(np.ones_like(chance), chance)

    weight = inverse_uncensored(time[died])
    if (horizon := _horizon(*(train or (time, event)))) is not None:
        early = time[died] < horizon
        weighed = np.where(drawn > 0, drawn * weight**2, 0.0)[:, early]
        pairs = ((weighed @ comparable[early]) * counts).sum(1)
        found["uno_c"] = _ratio(((weighed @ score[early]) * counts).sum(1), pairs)
    if times is not None:
        inside = _within_follow_up(time, counts, times)
        found["time_auc"] = _time_auc(time, event, risk, counts, times, inside, np.where(drawn > 0, drawn * weight, 0))
        weights = inverse_uncensored(time), inverse_uncensored(times)
        found["integrated_brier"] = _brier(time, event, counts, times, inside, curves, *weights)
    return found


def of_classes(label: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Replicates of the macro-averaged metrics; NaN where a class that a metric averages over was not drawn."""
    label, probabilities = check_classes(label, probabilities)
    classes = probabilities.shape[1]
    chosen = probabilities.argmax(axis=1)
    cell = (label * classes + chosen)[:, None] == np.arange(classes**2)
    confusion = (counts @ cell).reshape(len(counts), classes, classes)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, called, all_drawn = confusion.sum(2), confusion.sum(1), confusion.sum((1, 2))
    negatives = all_drawn[:, None] - true
    areas = np.stack([auc_replicates(label == k, probabilities[:, k], counts) for k in range(classes)], axis=1)
    every = (true > 0).all(axis=1)
    return {
        "macro_auc": areas.mean(axis=1),
        "accuracy": right.sum(1) / all_drawn,
        "sensitivity": _ratio(right, true).mean(axis=1),
        "specificity": (1 - _ratio(called - right, negatives)).mean(axis=1),
        "f1": np.where(every, _ratio(2 * right, true + called).mean(axis=1), np.nan),
    }


def auc_replicates(positive: np.ndarray, score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Replicates of the area under the ROC curve of `score` [case] for the cases that are `positive` (bool [case])."""
    above = score[positive][:, None] - score[~positive][None]
    wins = (above > 0) + 0.5 * (above == 0)
    yes, no = counts[:, positive], counts[:, ~positive]
    return _ratio(((yes @ wins) * no).sum(1), yes.sum(1) * no.sum(1))


def _time_auc(time, event, risk, counts, times, inside, weighed) -> np.ndarray:
    died = np.flatnonzero(event)
    score = (risk[died, None] > risk[None]) + 0.5 * (risk[died, None] == risk[None])
    drop = -np.diff(_product_limit(time, event == 1, np.zeros(len(time), dtype=bool), counts, times), prepend=1.0)
    total, weight = np.zeros(len(counts)), np.zeros(len(counts))
    for k, t in enumerate(times):
        dead, alive = time[died] <= t, time > t
        left = counts[:, alive]
        pairs = weighed[:, dead].sum(1) * left.sum(1)
        won = ((weighed[:, dead] @ score[np.ix_(dead, alive)]) * left).sum(1)
        known = inside[:, k] & (pairs > 0)
        total += np.where(known, _ratio(won, pairs) * drop[:, k], 0)
        weight += np.where(known, drop[:, k], 0)
    return _ratio(total, weight)


def _brier(time, event, counts, times, inside, curves, weight, weight_at) -> np.ndarray:
    died_by = (time[:, None] <= times[None]) & (event[:, None] == 1)
    alive_at = time[:, None] > times[None]
    # A death after the last of the times counts nowhere, and may have no weight.
    needed = (counts > 0) & (event == 1) & (time <= np.where(inside, times, -np.inf).max(axis=1)[:, None])
    of_dead = np.where(needed, counts * weight, 0)
    of_alive = np.where(inside, weight_at, 0) * (counts @ (alive_at * (1 - curves) ** 2))
    error = of_dead @ (died_by * curves**2) + of_alive
    error /= counts.sum(1, keepdims=True)
    both = inside[:, 1:] & inside[:, :-1]
    width = np.diff(times)
    area = np.where(both, (error[:, 1:] + error[:, :-1]) / 2 * width, 0).sum(1)
    return _ratio(area, (both * width).sum(1))


def _horizon(time: np.ndarray, event: np.ndarray) -> float | None:
    """Of Uno's C; None where no event sets it."""
    try:
        return survival.default_tau(time, event)
    except Undefined:
        return None


def _within_follow_up(time: np.ndarray, counts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether each of `times` lies in the follow-up of the drawn cases, [resample, time]; see the point metrics."""
    first = np.where(counts > 0, time, np.inf).min(axis=1)
    last = np.where(counts > 0, time, -np.inf).max(axis=1)
    return (times >= first[:, None]) & (times < last[:, None])


def _uncensored(time: np.ndarray, event: np.ndarray, counts: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Chance of being uncensored beyond `at`, estimated on each resample: [resample, len(at)]."""
    return _product_limit(time, event == 0, event == 1, counts, at)


def _product_limit(time, counted, leaves_first, counts, at) -> np.ndarray:
    """Product-limit estimates [resample, len(at)]; those in `leaves_first` are out of the risk set at their time."""
    steps, place = np.unique(time, return_inverse=True)
    of_step = (place[:, None] == np.arange(len(steps))).astype(np.float64)
    exits = counts @ of_step
    at_risk = np.cumsum(exits[:, ::-1], axis=1)[:, ::-1] - counts @ (of_step * leaves_first[:, None])
    ends = counts @ (of_step * counted[:, None])
    curve = np.cumprod(np.where(ends > 0, 1 - ends / np.maximum(at_risk, 1), 1.0), axis=1)
    curve = np.concatenate([np.ones((len(counts), 1)), curve], axis=1)
    return curve[:, np.searchsorted(steps, at, side="right")]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where nothing is below."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)

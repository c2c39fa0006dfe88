"""From what a survival model puts out to risks and survival curves, fitted on the training part alone."""

from __future__ import annotations

import numpy as np


def interval_cuts(time: np.ndarray, event: np.ndarray, intervals: int) -> np.ndarray:
    """Inner cuts [intervals − 1]: quantiles of the uncensored training times. Intervals are closed on the left."""
    return np.quantile(time[event.astype(bool)], np.linspace(0, 1, intervals + 1)[1:-1])


def to_interval(time: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Index of each time's interval, int64 [case]: interval 0 is t < cuts[0]."""
    return np.searchsorted(cuts, time, side="right")


def time_grid(time: np.ndarray, event: np.ndarray, points: int = 32) -> np.ndarray:
    """Distinct quantiles (5 % to 95 %) of the uncensored training times, where survival curves are kept."""
    return np.unique(np.quantile(time[event.astype(bool)], np.linspace(0.05, 0.95, points)))


def breslow_survival(
    train_risk: np.ndarray,
    train_time: np.ndarray,
    train_event: np.ndarray,
    risk: np.ndarray,
    times: np.ndarray,
) -> np.ndarray:
    """S(t | x) = exp(−H₀(t) · exp risk) with Breslow's baseline of the training part.

    Args:
        train_risk, train_time, train_event: [train]; risk: [case] log hazards; times: [time].
    Returns: float64 [case, time].
    """
    order = np.argsort(train_time, kind="stable")
    ordered = train_time[order]
    # In logarithms throughout: neither a huge nor a tiny hazard leaves the range of a float.
    log_at_risk = np.logaddexp.accumulate(train_risk[order][::-1])[::-1]
    first_of_tie = np.searchsorted(ordered, ordered, side="left")
    with np.errstate(divide="ignore"):
        log_increments = np.log(train_event[order]) - log_at_risk[first_of_tie]
    log_cumulative = np.concatenate([[-np.inf], np.logaddexp.accumulate(log_increments)])
    log_baseline = log_cumulative[np.searchsorted(ordered, times, side="right")]
    return np.exp(-np.exp(np.minimum(risk[:, None] + log_baseline[None], 700.0)))


def discrete_survival(hazards: np.ndarray, cuts: np.ndarray, horizon: float, times: np.ndarray) -> np.ndarray:
    """S(t) from interval hazards, linear within an interval (deaths spread evenly over it).

    Args:
        hazards: [case, interval]; cuts: [interval − 1]; horizon: end of the last interval (the longest training
            time), in the unit of cuts and times; times: [time].
    Returns: float64 [case, time].
    """
    edges = np.concatenate([[0.0], cuts, [max(horizon, np.nextafter(cuts[-1], np.inf))]])
    at_edges = np.concatenate([np.ones((len(hazards), 1)), np.cumprod(1 - hazards, axis=1)], axis=1)
    return np.stack([np.interp(times, edges, row) for row in at_edges])

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
    shift = train_risk.max()  # H₀ and exp(risk) are shifted together, so that neither overflows
    order = np.argsort(train_time, kind="stable")
    ordered = train_time[order]
    at_risk = np.cumsum(np.exp(train_risk[order] - shift)[::-1])[::-1]
    first_of_tie = np.searchsorted(ordered, ordered, side="left")
    increments = train_event[order] / at_risk[first_of_tie]
    cumulative = np.concatenate([[0.0], np.cumsum(increments)])
    baseline = cumulative[np.searchsorted(ordered, times, side="right")]
    return np.exp(-np.exp(np.minimum(risk - shift, 50.0))[:, None] * baseline[None])


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

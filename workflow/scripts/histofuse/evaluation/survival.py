"""Discrimination and calibration of survival predictions.

Conventions: `risk` is higher for those who die earlier; `time` is in one unit throughout (days); `event` is 1
for a death. Every metric raises `Undefined` with the reason where the data cannot answer. Censoring weights
(IPCW) come from the cases given as `train_time` and `train_event`: the training part of the same cohort, never the test
part, except for cases of another cohort, whose censoring their own follow-up alone tells (`evaluation.score`).
"""

from __future__ import annotations

import numpy as np

from histofuse.evaluation.undefined import Undefined

TAU_QUANTILE = 0.9  # Uno's C looks at the time before the 90th percentile of the training event times


def harrell_c(risk, time, event) -> float:
    """Harrell's concordance index of `risk` [n].

    A pair is comparable if the earlier time is an event, or if the times are equal and exactly one is an
    event (which then counts as the earlier). Tied risks count one half. These are the rules of lifelines,
    hence of the published Pathomic Fusion figures. Source: Harrell, Lee, Mark (1996), Statistics in Medicine
    15:361.
    """
    comparable, score = concordance_pairs(*check_survival(time, event, risk=risk))
    n_pairs = comparable.sum()
    if n_pairs == 0:
        raise Undefined("no comparable pair of cases")
    return float(score.sum() / n_pairs)


def concordance_pairs(time, event, risk) -> tuple[np.ndarray, np.ndarray]:
    """Comparable pairs (events in rows, all cases in columns) and their scores 0, ½ or 1 (0 where not
    comparable).

    Shapes [n_events, n]; rows are the cases `np.flatnonzero(event)`, in this order.
    """
    died = np.flatnonzero(event)
    if died.size == 0:
        raise Undefined("no event")
    later = time[None, :] > time[died, None]
    censored_then = (time[None, :] == time[died, None]) & (event[None, :] == 0)
    comparable = later | censored_then
    score = (risk[died, None] > risk[None, :]) + 0.5 * (risk[died, None] == risk[None, :])
    return comparable, np.where(comparable, score, 0.0)


def uno_c(train_time, train_event, time, event, risk, tau: float | None = None) -> float:
    """Uno's concordance index: Harrell's pairs weighted by the inverse squared chance of being uncensored.

    Only events before `tau` count (default: the 90th percentile of the training event times). Unlike
    Harrell's, its limit does not depend on the censoring. Source: Uno et al. (2011), Statistics in Medicine
    30:1105.
    """
    train_time, train_event = check_survival(train_time, train_event)
    time, event, risk = check_survival(time, event, risk=risk)
    if tau is None:
        tau = default_tau(train_time, train_event)
    comparable, score = concordance_pairs(time, event, risk)
    died = np.flatnonzero(event)
    early = time[died] < tau
    if not comparable[early].any():
        raise Undefined(f"no comparable pair of cases before tau = {tau:g} days")
    weight = _inverse_uncensored(train_time, train_event, time[died[early]]) ** 2
    return float(weight @ score[early].sum(axis=1) / (weight @ comparable[early].sum(axis=1)))


def default_tau(train_time, train_event) -> float:
    """The 90th percentile of the training event times."""
    event_times = np.asarray(train_time)[np.asarray(train_event) == 1]
    if event_times.size == 0:
        raise Undefined("no event in the training part")
    return float(np.quantile(event_times, TAU_QUANTILE))


def time_dependent_auc(train_time, train_event, time, event, risk, times) -> float:
    """Cumulative/dynamic AUC of `risk` at each of `times`, averaged over the deaths between these times.

    At time t the cases dead by t stand against those alive at t, the dead weighted by 1/G(time). The mean
    weighs each time by the drop of the test part's Kaplan–Meier curve since the time before. Times outside
    the test follow-up, or before its first death, are left out. Source: Uno et al. (2007), JASA 102:527;
    Lambert and Chevret (2016).
    """
    train_time, train_event = check_survival(train_time, train_event)
    time, event, risk = check_survival(time, event, risk=risk)
    times = within_follow_up(times, time)
    died = np.flatnonzero(event)
    if died.size == 0:
        raise Undefined("no event")
    times = times[times >= time[died].min()]
    if times.size == 0:
        raise Undefined("no time of the grid has deaths before it and survivors after it")

    died = died[time[died] <= times[-1]]
    weight = _inverse_uncensored(train_time, train_event, time[died])
    score = (risk[died, None] > risk[None, :]) + 0.5 * (risk[died, None] == risk[None, :])
    auc = np.empty(times.size)
    for k, t in enumerate(times):
        dead, alive = time[died] <= t, time > t
        auc[k] = weight[dead] @ score[np.ix_(dead, alive)].mean(axis=1) / weight[dead].sum()
    survival = kaplan_meier(time, event, times)
    deaths = -np.diff(survival, prepend=1.0)
    return float(auc @ deaths / deaths.sum())


def integrated_brier(train_time, train_event, time, event, survival, times) -> float:
    """Integrated Brier score of survival curves `survival` [n, n_times] at `times`; 0 is perfect, lower is
    better.

    The squared error of S(t) with inverse-censoring weights, integrated by trapezoids over the times within
    the test follow-up and divided by their range. Source: Graf et al. (1999), Statistics in Medicine 18:2529.
    """
    train_time, train_event = check_survival(train_time, train_event)
    time, event = check_survival(time, event)
    survival = np.asarray(survival, dtype=np.float64)
    if survival.shape != (time.size, np.size(times)):
        raise ValueError(f"survival has shape {survival.shape}; needed: one row per case and one column per time")
    inside = np.isin(times, within_follow_up(times, time))
    times, survival = np.asarray(times, dtype=np.float64)[inside], survival[:, inside]
    if times.size < 2:
        raise Undefined("fewer than two times of the grid lie within the test follow-up")

    died_by = (time[:, None] <= times[None, :]) & (event[:, None] == 1)
    alive_at = time[:, None] > times[None, :]
    needed = died_by.any(axis=1)
    weight_dead = np.zeros(time.size)
    weight_dead[needed] = _inverse_uncensored(train_time, train_event, time[needed])
    weight_alive = _inverse_uncensored(train_time, train_event, times)
    error = died_by * survival**2 * weight_dead[:, None] + alive_at * (1 - survival) ** 2 * weight_alive[None, :]
    return float(np.trapezoid(error.mean(axis=0), times) / (times[-1] - times[0]))


def kaplan_meier(time, event, at) -> np.ndarray:
    """Kaplan–Meier survival S(t) (right-continuous) of (`time`, `event`) at the times `at`."""
    return _product_limit(np.asarray(time), np.asarray(event) == 1, np.zeros(np.size(time), dtype=bool), at)


def censoring_survival(time, event, at) -> np.ndarray:
    """G(t), the chance of being uncensored beyond t; deaths at a tied time leave before the censored do."""
    event = np.asarray(event) == 1
    return _product_limit(np.asarray(time), ~event, event, at)


def within_follow_up(times, test_time) -> np.ndarray:
    """The increasing `times` from the first test time on and before the last: beyond it nothing is known."""
    times = np.unique(np.asarray(times, dtype=np.float64))
    return times[(times >= np.min(test_time)) & (times < np.max(test_time))]


def check_survival(time, event, **columns) -> tuple[np.ndarray, ...]:
    """`time`, `event` and further columns as float64 vectors of one length; ValueError on anything else."""
    arrays = {"time": time, "event": event, **columns}
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()}
    for name, values in arrays.items():
        if values.ndim != 1 or values.size != arrays["time"].size:
            raise ValueError(f"{name} has shape {values.shape}; needed: a vector of {arrays['time'].size} cases")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite")
    if not np.isin(arrays["event"], (0, 1)).all():
        raise ValueError("event holds values other than 0 and 1")
    if arrays["time"].size == 0:
        raise Undefined("no case")
    return tuple(arrays.values())


def _product_limit(time, counted, leaves_first, at) -> np.ndarray:
    """Product-limit estimate for the endpoint `counted`; cases in `leaves_first` are out of the risk set at
    their time.
    """
    steps, place = np.unique(time, return_inverse=True)
    size = steps.size
    exits = np.bincount(place, minlength=size)
    at_risk = time.size - np.concatenate(([0], np.cumsum(exits)[:-1]))
    at_risk = at_risk - np.bincount(place[leaves_first], minlength=size)
    ends = np.bincount(place[counted], minlength=size)
    factor = np.where(ends > 0, 1 - ends / np.maximum(at_risk, 1), 1.0)
    curve = np.concatenate(([1.0], np.cumprod(factor)))
    return curve[np.searchsorted(steps, np.asarray(at, dtype=np.float64), side="right")]


def _inverse_uncensored(train_time, train_event, at) -> np.ndarray:
    uncensored = censoring_survival(train_time, train_event, at)
    if (uncensored <= 0).any():
        when = np.asarray(at)[uncensored <= 0].min()
        raise Undefined(f"every training case is censored by day {when:g}, so later deaths have no censoring weight")
    return 1 / uncensored

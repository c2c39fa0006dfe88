"""Survival curves from risks and hazards, against lifelines and by hand."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from histofuse.training.survival import breslow_survival, discrete_survival, interval_cuts, time_grid, to_interval


def test_breslow_curves_agree_with_lifelines():
    rng = np.random.default_rng(3)
    x = rng.normal(size=80)
    time, event = rng.exponential(np.exp(-x)) * 100, rng.integers(0, 2, 80)  # no ties: Efron equals Breslow
    fit = CoxPHFitter().fit(pd.DataFrame({"x": x, "time": time, "event": event}), "time", "event")
    risk = x * fit.params_["x"]
    times = np.sort(time[event == 1])[[0, 7, 20]]  # lifelines interpolates between deaths
    expected = fit.predict_survival_function(pd.DataFrame({"x": x}), times=times).T.to_numpy()
    np.testing.assert_allclose(breslow_survival(risk, time, event, risk, times), expected, atol=1e-6)


def test_breslow_by_hand_with_ties():
    """Two deaths at 1 among 4 at risk with hazard 1 each: H = 2/4; before it nobody dies."""
    curves = breslow_survival(
        np.zeros(4), np.array([1.0, 1, 2, 3]), np.array([1, 1, 0, 0]), np.zeros(1), np.array([0.5, 1])
    )
    np.testing.assert_allclose(curves, [[1.0, np.exp(-0.5)]])


def test_breslow_does_not_overflow():
    curves = breslow_survival(
        np.array([900.0, 1, -900]), np.arange(1.0, 4), np.ones(3), np.array([900.0, -900]), np.array([2.0])
    )
    assert np.isfinite(curves).all()
    assert curves[0, 0] < 0.5 < curves[1, 0]


def test_intervals_are_quantiles_of_deaths_closed_on_the_left():
    time, event = np.array([1.0, 2, 3, 4, 5, 100]), np.array([1, 1, 1, 1, 1, 0])
    cuts = interval_cuts(time, event, 4)
    np.testing.assert_allclose(cuts, [2, 3, 4])
    assert to_interval(np.array([1.9, 2.0, 3.5, 4.0, 999]), cuts).tolist() == [0, 1, 2, 3, 3]


def test_discrete_curve_is_linear_between_cuts():
    curves = discrete_survival(np.array([[0.5, 0.5]]), np.array([10.0]), 30.0, np.array([0.0, 5, 10, 20, 30, 99]))
    np.testing.assert_allclose(curves, [[1, 0.75, 0.5, 0.375, 0.25, 0.25]])


def test_time_grid_sees_deaths_only():
    grid = time_grid(np.array([1.0, 2, 3, 1e6]), np.array([1, 1, 1, 0]))
    assert grid.min() > 1
    assert grid.max() < 3
    assert len(time_grid(np.array([4.0, 4]), np.ones(2))) == 1
    assert time_grid(np.array([7.0]), np.ones(1)) == pytest.approx([7])

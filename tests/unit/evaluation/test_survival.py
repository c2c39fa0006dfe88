"""Survival metrics against lifelines, scikit-survival and hand-worked cases."""

import lifelines
import numpy as np
import pytest
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

from histofuse.evaluation.survival import (
    censoring_survival,
    default_tau,
    harrell_c,
    integrated_brier,
    kaplan_meier,
    time_dependent_auc,
    uno_c,
)
from histofuse.evaluation.undefined import Undefined


def cohort(seed, n=80, ties=False):
    """Times, events and risks; with `ties`, whole months and rounded risks, so that everything ties with
    everything.
    """
    rng = np.random.default_rng(seed)
    hazard = rng.normal(size=n)
    death, censored = rng.exponential(np.exp(-hazard)), rng.exponential(1.5, size=n)
    time, event = np.minimum(death, censored) * 1000, (death <= censored).astype(int)
    risk = hazard + rng.normal(size=n)
    return (np.ceil(time / 200), event, risk.round(0)) if ties else (time, event, risk)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_harrell_equals_lifelines(seed, ties):
    time, event, risk = cohort(seed, ties=ties)
    assert harrell_c(risk, time, event) == pytest.approx(concordance_index(time, -risk, event), abs=1e-12)


def test_harrell_by_hand():
    # Pairs: (1,2) concordant, (1,3) tied risk = 1/2, (2,3) not comparable: 2 is censored first.
    assert harrell_c([3, 1, 3], time=[1, 2, 3], event=[1, 0, 1]) == 1.5 / 2
    # At equal times the death counts as earlier; two deaths at one time are not comparable.
    assert harrell_c([2, 1], time=[5, 5], event=[1, 0]) == 1
    with pytest.raises(Undefined, match="comparable"):
        harrell_c([2, 1], time=[5, 5], event=[1, 1])


def test_harrell_keeps_float64_apart():
    assert harrell_c([1 + 1e-12, 1], time=[1, 2], event=[1, 1]) == 1


def test_harrell_flips_with_the_sign():
    time, event, risk = cohort(0)
    assert harrell_c(risk, time, event) + harrell_c(-risk, time, event) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_uno_equals_scikit_survival(seed):
    train, test = cohort(seed, n=200), cohort(seed + 100)
    tau = default_tau(train[0], train[1])
    theirs = concordance_index_ipcw(
        Surv.from_arrays(train[1], train[0]), Surv.from_arrays(test[1], test[0]), test[2], tau=tau
    )
    assert uno_c(train[0], train[1], *test) == pytest.approx(theirs[0], abs=1e-12)


def test_uno_without_censoring_is_harrell():
    time, _, risk = cohort(1)
    event = np.ones_like(time)
    assert uno_c(time, event, time, event, risk, tau=np.inf) == pytest.approx(harrell_c(risk, time, event))


def test_uno_counts_only_deaths_before_tau():
    # The death on day 1 is ranked rightly, that on day 2 wrongly; with tau = 2 the second is not asked.
    time, event, risk = [1, 2, 3], [1, 1, 0], [3, 1, 2]
    assert uno_c(time, event, time, event, risk, tau=2) == 1
    assert uno_c(time, event, time, event, risk, tau=2.5) == pytest.approx(2 / 3)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_brier_equal_scikit_survival(ties):
    train, test = cohort(7, n=300, ties=ties), cohort(8, n=150, ties=ties)
    times = np.quantile(train[0][train[1] == 1], [0.2, 0.4, 0.6, 0.8]).round(3) + 0.01
    theirs = (Surv.from_arrays(train[1], train[0]), Surv.from_arrays(test[1], test[0]))
    assert time_dependent_auc(train[0], train[1], *test, times) == pytest.approx(
        cumulative_dynamic_auc(*theirs, test[2], times)[1], abs=1e-12
    )
    scale = {True: 5.0, False: 1000.0}[ties]
    curves = np.exp(-np.exp(test[2])[:, None] * times / scale)
    assert integrated_brier(train[0], train[1], test[0], test[1], curves, times) == pytest.approx(
        integrated_brier_score(*theirs, curves, times), abs=1e-12
    )


def test_times_outside_the_test_follow_up_are_left_out():
    train, test = cohort(7, n=300), cohort(8, n=100)
    times = np.quantile(train[0], [0.2, 0.5, 0.7])
    wide = np.concatenate(([1e-9], times, [test[0].max(), 1e9]))
    curves = np.exp(-np.outer(np.exp(test[2]), wide) / 1000)
    assert time_dependent_auc(train[0], train[1], *test, wide) == time_dependent_auc(train[0], train[1], *test, times)
    assert integrated_brier(train[0], train[1], test[0], test[1], curves, wide) == integrated_brier(
        train[0], train[1], test[0], test[1], curves[:, 1:4], times
    )


def test_brier_of_the_truth_and_of_its_opposite():
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4)
    at = np.array([1.5, 2.5, 3.5])
    truth = (time[:, None] > at).astype(float)
    assert integrated_brier(time, event, time, event, truth, at) == 0
    assert integrated_brier(time, event, time, event, 1 - truth, at) == pytest.approx(1)


def test_kaplan_meier_equals_lifelines():
    time, event, _ = cohort(3, ties=True)
    at = np.arange(0, 20, 0.5)
    fitted = lifelines.KaplanMeierFitter().fit(time, event)
    np.testing.assert_allclose(kaplan_meier(time, event, at), fitted.survival_function_at_times(at), atol=1e-12)


def test_censoring_survival_lets_deaths_leave_first():
    # At time 2 one dies and one is censored: one of the two left at risk of censoring is censored.
    np.testing.assert_allclose(censoring_survival([1, 2, 2, 3], [1, 1, 0, 1], [1.9, 2, 9]), [1, 0.5, 0.5])


@pytest.mark.parametrize("metric", ["harrell", "uno", "auc"])
def test_no_event_in_the_test_part(metric):
    time, risk, none = np.array([1.0, 2, 3]), np.array([3.0, 2, 1]), np.zeros(3)
    train = (np.array([1.0, 2, 4]), np.ones(3))
    call = {
        "harrell": lambda: harrell_c(risk, time, none),
        "uno": lambda: uno_c(*train, time, none, risk),
        "auc": lambda: time_dependent_auc(*train, time, none, risk, [1.5, 2.5]),
    }[metric]
    with pytest.raises(Undefined, match="no event"):
        call()


def test_no_event_in_the_training_part():
    with pytest.raises(Undefined, match="training"):
        uno_c([1, 2, 3], [0, 0, 0], [1, 2], [1, 1], [2, 1])


def test_censoring_weight_of_zero_is_named():
    # The longest training case is censored on day 3, yet a test case dies on day 5.
    with pytest.raises(Undefined, match="day 5"):
        uno_c([1, 2, 3], [1, 1, 0], [5, 6], [1, 1], [2, 1], tau=10)


def test_grid_without_a_death_or_a_follow_up():
    train = ([1, 2, 9], [1, 1, 1])
    with pytest.raises(Undefined, match="grid"):
        time_dependent_auc(*train, [3, 4, 8], [0, 1, 1], [1, 2, 3], [3.5])
    with pytest.raises(Undefined, match="fewer than two"):
        integrated_brier(*train, [3, 4], [1, 1], [[0.5, 0.4]] * 2, [3.5, 8])


@pytest.mark.parametrize(
    ("risk", "time", "event", "reason"),
    [
        ([1, np.nan], [1, 2], [1, 1], "risk holds values that are not finite"),
        ([1, 2, 3], [1, 2], [1, 1], "risk has shape"),
        ([1, 2], [1, 2], [1, 2], "other than 0 and 1"),
        ([], [], [], "no case"),
    ],
)
def test_bad_input_is_refused(risk, time, event, reason):
    with pytest.raises(ValueError, match=reason):
        harrell_c(risk, time, event)

"""Bootstrap replicates of all metrics against the metrics' own functions on the drawn cases, one draw at a time."""

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation import classification, survival
from histofuse.evaluation.resampling import draw_counts, replicates
from histofuse.evaluation.undefined import Undefined

SEED = 3


def survival_cases(n=40, curves=True, tied=True):
    rng = np.random.default_rng(SEED)
    time = rng.exponential(800, n) + 1
    time = np.ceil(time / 100) * 100 if tied else time
    risk = np.round(rng.normal(size=n), 1)  # some are tied
    times = np.array([150.0, 300, 500, 900, 1300])
    of_case = np.exp(-np.outer(np.exp(risk), times / 1500))
    return pd.DataFrame(
        {
            "time_days": time,
            "event": (rng.random(n) < 0.6).astype(int),
            "risk": risk,
            "survival_times": [times] * n if curves else None,
            "survival": list(of_case) if curves else None,
        }
    )


def classified_cases(n=30):
    rng = np.random.default_rng(SEED)
    probabilities = np.round(rng.dirichlet([1, 1, 1], n), 2)
    label = np.where(np.arange(n) < 2, 2, rng.integers(0, 2, n))  # class 2 is rare: some draws lack it
    return pd.DataFrame({"label": label, "probabilities": list(probabilities)})


def plain(function, *arguments):
    try:
        return function(*arguments)
    except Undefined:
        return np.nan


@pytest.mark.parametrize("tied", [True, False])
def test_survival_metrics_are_those_of_the_drawn_cases(tied):
    cases = survival_cases(tied=tied)
    counts = draw_counts(len(cases), 60)
    tau = survival.default_tau(cases["time_days"], cases["event"])
    expected = {"harrell_c": [], "uno_c": [], "time_auc": [], "integrated_brier": []}
    for row in counts.astype(int):
        drawn = cases.loc[np.repeat(np.arange(len(cases)), row)]
        known = drawn["time_days"].to_numpy(), drawn["event"].to_numpy()
        risk, times, curves = drawn["risk"].to_numpy(), drawn["survival_times"].iloc[0], np.stack(drawn["survival"])
        expected["harrell_c"].append(plain(survival.harrell_c, risk, *known))
        expected["uno_c"].append(plain(survival.uno_c, *known, *known, risk, tau))
        expected["time_auc"].append(plain(survival.time_dependent_auc, *known, *known, risk, times))
        expected["integrated_brier"].append(plain(survival.integrated_brier, *known, *known, curves, times))
    found = replicates(cases, "survival", counts)
    assert list(found) == list(expected)
    for metric, values in expected.items():
        np.testing.assert_allclose(found[metric], values, rtol=1e-10, err_msg=metric)


def test_weights_of_the_training_part_hold_in_every_resample():
    cases = survival_cases()
    rng = np.random.default_rng(8)
    train = np.ceil(rng.exponential(1200, 70) / 100) * 100, (rng.random(70) < 0.5).astype(int)
    train[0][-1] = 1e5  # nobody of the cases outlives all of the training part
    counts = draw_counts(len(cases), 60)
    found = replicates(cases, "survival", counts, train)
    expected = {name: [] for name in found}
    for row in counts.astype(int):
        drawn = cases.loc[np.repeat(np.arange(len(cases)), row)]
        known = drawn["time_days"].to_numpy(), drawn["event"].to_numpy()
        risk, times, curves = drawn["risk"].to_numpy(), drawn["survival_times"].iloc[0], np.stack(drawn["survival"])
        expected["harrell_c"].append(plain(survival.harrell_c, risk, *known))
        expected["uno_c"].append(plain(survival.uno_c, *train, *known, risk))
        expected["time_auc"].append(plain(survival.time_dependent_auc, *train, *known, risk, times))
        expected["integrated_brier"].append(plain(survival.integrated_brier, *train, *known, curves, times))
    for metric, values in expected.items():
        np.testing.assert_allclose(found[metric], values, rtol=1e-10, err_msg=metric)
    assert not np.allclose(found["uno_c"], replicates(cases, "survival", counts)["uno_c"])


def test_a_training_part_that_gives_no_weights_or_no_horizon():
    cases, counts = survival_cases(), draw_counts(40, 5)
    nobody = np.array([]), np.array([])
    assert list(replicates(cases, "survival", counts, nobody)) == ["harrell_c"]
    censored = np.array([1e4, 2e4]), np.array([0, 0])
    assert list(replicates(cases, "survival", counts, censored)) == ["harrell_c", "time_auc", "integrated_brier"]


def test_classification_metrics_are_those_of_the_drawn_cases():
    cases = classified_cases()
    counts = draw_counts(len(cases), 80)
    found = replicates(cases, "classification", counts)
    for metric in ("macro_auc", "accuracy", "sensitivity", "specificity", "f1"):
        expected = []
        for row in counts.astype(int):
            drawn = cases.loc[np.repeat(np.arange(len(cases)), row)]
            label, probabilities = drawn["label"].to_numpy(), np.stack(drawn["probabilities"])
            expected.append(plain(getattr(classification, metric), label, probabilities))
        np.testing.assert_allclose(found[metric], expected, rtol=1e-12, err_msg=metric)
    assert np.isnan(found["macro_auc"]).any()
    assert np.isfinite(found["accuracy"]).all()


def test_resamples_without_a_death_have_no_value():
    cases = survival_cases(8, curves=False).assign(event=[1, 1, 0, 0, 0, 0, 0, 0])
    found = replicates(cases, "survival", draw_counts(8, 200))
    assert list(found) == ["harrell_c", "uno_c"]
    assert np.isnan(found["harrell_c"]).any()
    assert np.isfinite(found["harrell_c"]).any()


def test_cases_without_a_death_have_no_replicates():
    assert replicates(survival_cases().assign(event=0), "survival", draw_counts(40, 5)) == {}


def test_draws_are_the_same_each_time_and_of_as_many_cases():
    counts = draw_counts(25, 10)
    assert (counts == draw_counts(25, 10)).all()
    assert (counts.sum(axis=1) == 25).all()
    assert not (counts == draw_counts(25, 10, seed=1)).all()

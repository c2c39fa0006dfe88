"""Models of another cohort on shared cases: metrics, intervals and tests against plain loops."""

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation import survival
from histofuse.evaluation.bootstrap import mean_replicates
from histofuse.evaluation.resampling import RESAMPLES, draw_counts
from histofuse.evaluation.score import score_run
from histofuse.evaluation.summary import OTHER_CASES, PAIRED_BOOTSTRAP, summarise

N = 36
RNG = np.random.default_rng(11)
TIME = np.ceil(RNG.exponential(700, N) / 50) * 50
EVENT = (RNG.random(N) < 0.7).astype(int)
HAZARD = -np.log(TIME / 700)


def predictions(split, seed, noise, train=20):
    """Of one model: training cases of its own cohort, then the shared cases."""
    rng = np.random.default_rng([split, seed])
    own = pd.DataFrame({"case_id": [f"own{k}" for k in range(train)], "part": "train", "risk": 0.0})
    own = own.assign(time_days=np.arange(1.0, train + 1), event=1)
    test = pd.DataFrame({"case_id": [f"C3L-{k:05d}" for k in range(N)], "part": "test", "time_days": TIME})
    test = test.assign(event=EVENT, risk=HAZARD + noise * rng.normal(size=N))
    frame = pd.concat([own, test], ignore_index=True)
    empty = {name: None for name in ("label", "survival_times", "survival", "probabilities")}
    return frame.assign(split=split, seed=seed, **empty)


def score_external(predictions, slides, kind):
    return score_run(predictions, kind, slides, own_censoring=True, resampled=True)


def metrics(row, noise, splits=3, seeds=2, scored_on="cptac", **changes):
    models = [
        score_external(predictions(split, seed, noise), None, "survival")
        for split in range(splits)
        for seed in range(seeds)
    ]
    about = {"row": row, "cohort": "glioma", "task": "survival", "protocol": "mccv3", "scored_on": scored_on}
    return pd.concat(models, ignore_index=True).assign(**about).assign(**changes)


@pytest.fixture(scope="module")
def good():
    return metrics("good", 1.0)


@pytest.fixture(scope="module")
def poor():
    return metrics("poor", 6.0)


def loop(noise, splits=3, seeds=2, resamples=25):
    """Harrell's C in the first resamples, model by model, of the mean over splits of the mean over seeds."""
    models = [
        [predictions(split, seed, noise)["risk"].to_numpy()[-N:] for seed in range(seeds)] for split in range(splits)
    ]
    values = []
    for row in draw_counts(N)[:resamples].astype(int):
        drawn = np.repeat(np.arange(N), row)
        known = TIME[drawn], EVENT[drawn]
        values.append(np.mean([np.mean([survival.harrell_c(risk[drawn], *known) for risk in of]) for of in models]))
    return np.array(values)


def replicates_of(models):
    return mean_replicates(models[models["metric"] == "harrell_c"])


def test_replicates_are_those_of_a_plain_bootstrap_of_the_mean_over_models(good):
    assert len(replicates_of(good)) == RESAMPLES
    np.testing.assert_allclose(replicates_of(good)[:25], loop(1.0), rtol=1e-12)


def test_estimate_is_the_mean_over_models_and_its_interval_that_of_the_replicates(good):
    summary = summarise(good, reference=None).set_index("metric").loc["harrell_c"]
    risks = [[predictions(split, seed, 1.0)["risk"].to_numpy()[-N:] for seed in (0, 1)] for split in range(3)]
    of_models = [survival.harrell_c(risk, TIME, EVENT) for of_split in risks for risk in of_split]
    assert summary["estimate"] == pytest.approx(np.mean(of_models))
    low, high = np.quantile(replicates_of(good), [0.025, 0.975])
    assert (summary["ci_low"], summary["ci_high"]) == pytest.approx((low, high))
    assert low < summary["estimate"] < high
    assert np.isnan(summary["half_width_t"])
    assert (summary["n_splits"], summary["n_seeds"], summary["n_external"]) == (3, 2, N)


def test_p_value_is_that_of_the_differences_in_each_resample(good, poor):
    summary = summarise(pd.concat([good, poor]), reference="poor").set_index(["row", "metric"])
    difference = replicates_of(good) - replicates_of(poor)
    np.testing.assert_allclose(difference[:25], loop(1.0) - loop(6.0), rtol=1e-9, atol=1e-12)
    expected = 2 * (1 + min((difference <= 0).sum(), (difference >= 0).sum())) / (RESAMPLES + 1)
    assert summary.loc[("good", "harrell_c"), "p_value"] == pytest.approx(min(1, expected))
    assert summary.loc[("good", "harrell_c"), "p_value"] < 0.05
    assert np.isnan(summary.loc[("poor", "harrell_c"), "p_value"])
    assert np.isnan(summary.loc[("good", "harrell_c"), "t"])
    assert summary.loc[("good", "harrell_c"), "test"] == PAIRED_BOOTSTRAP


def test_censoring_weights_are_of_the_cases_scored():
    frame = predictions(0, 0, 1.0)
    found = score_external(frame, None, "survival").set_index("metric")
    risk = frame.loc[frame["part"] == "test", "risk"].to_numpy()
    assert found.loc["uno_c", "value"] == pytest.approx(survival.uno_c(TIME, EVENT, TIME, EVENT, risk))
    assert found.loc["uno_c", "n_train"] == 20
    without = score_external(frame[frame["part"] == "test"], None, "survival").set_index("metric")
    assert without.loc["uno_c", "value"] == found.loc["uno_c", "value"]


def test_slides_are_drawn_with_their_cases():
    frame = predictions(0, 0, 1.0)
    test = frame[frame["part"] == "test"]
    slides = pd.concat(
        [test.assign(slide_id=test["case_id"] + "-21"), test.iloc[::3].assign(slide_id=lambda f: f["case_id"])]
    )
    slides["risk"] += np.random.default_rng(5).normal(size=len(slides))
    found = score_external(frame, slides, "survival").set_index("metric")
    case, known = (
        slides["case_id"].str[-5:].astype(int).to_numpy(),
        (slides["time_days"], slides["event"], slides["risk"]),
    )
    time, event, risk = (values.to_numpy(float) for values in known)
    assert found.loc["slide_harrell_c", "value"] == pytest.approx(survival.harrell_c(risk, time, event))
    plain = []
    for row in draw_counts(N)[:25].astype(int):
        drawn = np.repeat(np.arange(len(slides)), row[case])
        plain.append(survival.harrell_c(risk[drawn], time[drawn], event[drawn]))
    np.testing.assert_allclose(found.loc["slide_harrell_c", "replicates"][:25], plain, rtol=1e-12)
    assert found.loc["harrell_c", "replicates"].shape == (RESAMPLES,)


@pytest.mark.parametrize("change", [{"scored_on": "other"}, {"task": "grading"}, {"scored_on": ""}])
def test_rows_scored_on_other_cases_are_not_tested(good, poor, change):
    summary = summarise(pd.concat([good, poor.assign(**change)]), reference="poor").set_index("row")
    assert summary["p_value"].isna().all()


def test_rows_whose_cases_differ_under_one_name_are_not_tested(good, poor):
    summary = summarise(pd.concat([good, poor.assign(cases="another digest")]), reference="poor").set_index("row")
    assert summary["p_value"].isna().all()
    assert set(summary.loc["good", "test"]) == {OTHER_CASES}
    assert set(summary.loc["poor", "test"]) == {""}


def test_rows_trained_on_other_cohorts_are_tested_on_the_same_cases(good, poor):
    both = pd.concat([good, poor.assign(cohort="two_cohorts", protocol="holdout")])
    assert summarise(both, reference="poor").set_index("row").loc["good", "p_value"].notna().any()


def test_a_single_split_has_the_interval_of_the_same_kind():
    one = metrics("one", 1.0, splits=1, seeds=1)
    summary = summarise(one, reference=None).set_index("metric").loc["harrell_c"]
    np.testing.assert_allclose(replicates_of(one)[:25], loop(1.0, splits=1, seeds=1), rtol=1e-12)
    assert (summary["ci_low"], summary["ci_high"]) == pytest.approx(
        tuple(np.quantile(replicates_of(one), [0.025, 0.975]))
    )


def test_models_whose_metric_has_no_value_are_left_out_of_the_replicates_too(good):
    broken = good.copy()
    gone = (broken["split"] == 1) & (broken["metric"] == "harrell_c")
    broken.loc[gone, "value"], broken.loc[gone, "replicates"] = np.nan, None
    summary = summarise(broken, reference=None).set_index("metric").loc["harrell_c"]
    kept = summarise(good[good["split"] != 1], reference=None).set_index("metric").loc["harrell_c"]
    assert summary["n_splits_left_out"] == 1
    assert (summary["ci_low"], summary["ci_high"]) == (kept["ci_low"], kept["ci_high"])

"""Scoring of whole runs: the contract of predictions, and splits that cannot answer."""

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.predictions import COLUMNS
from histofuse.evaluation.resampling import RESAMPLES, draw_counts
from histofuse.evaluation.score import CLASSIFICATION_METRICS, SURVIVAL_METRICS, score_run
from histofuse.evaluation.survival import harrell_c, uno_c
from histofuse.io import InputError, read_table, write_table


def survival_run(split=0, seed=0, n=60):
    """Predictions of a decent model: 40 training and 20 test cases, exponential curves at four times."""
    rng = np.random.default_rng(split)
    hazard = rng.normal(size=n)
    death, censored = rng.exponential(1000 * np.exp(-hazard)), rng.exponential(1500, size=n)
    risk = hazard + 0.5 * np.random.default_rng(100 + seed).normal(size=n)
    times = np.array([100.0, 300, 600, 900])
    return pd.DataFrame(
        {
            "case_id": [f"TCGA-{i:04d}" for i in range(n)],
            "part": ["train"] * (n - 20) + ["test"] * 20,
            "split": split,
            "seed": seed,
            "time_days": np.minimum(death, censored),
            "event": (death <= censored).astype(int),
            "label": None,
            "risk": risk,
            "survival_times": [times] * n,
            "survival": list(np.exp(-np.outer(np.exp(risk), times) / 1000)),
            "probabilities": None,
        }
    )[COLUMNS]


def class_run():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=30)
    frame = survival_run().head(30).assign(part="test", label=[i % 3 for i in range(30)])
    return frame.assign(probabilities=list(probabilities), risk=np.nan, survival_times=None, survival=None)


def of_cases(predictions, kind):
    """The metrics of cases alone; those of slides have tests of their own."""
    metrics = score_run(predictions, kind)
    return metrics[~metrics["metric"].str.startswith("slide_")].reset_index(drop=True)


def test_survival_run_has_every_metric():
    metrics = of_cases(pd.concat([survival_run(0), survival_run(1), survival_run(1, seed=1)]), "survival")
    assert list(metrics["metric"]) == list(SURVIVAL_METRICS) * 3
    assert metrics["value"].between(0, 1).all()
    assert (metrics["note"] == "").all()
    assert set(metrics["n_train"]) == {40}
    assert set(metrics["n_test"]) == {20}


def test_only_the_test_part_is_scored():
    run = survival_run()
    test = run[run["part"] == "test"]
    value = score_run(run, "survival").set_index("metric").loc["harrell_c"]
    assert value["value"] == harrell_c(test["risk"], test["time_days"], test["event"])
    assert value["n_events_test"] == test["event"].sum()
    changed = run.assign(risk=np.where(run["part"] == "train", 0.0, run["risk"]))
    pd.testing.assert_frame_equal(score_run(changed, "survival"), score_run(run, "survival"))


def test_same_after_a_round_through_parquet(tmp_path):
    write_table(survival_run(), tmp_path / "predictions.parquet")
    read = score_run(read_table(tmp_path / "predictions.parquet"), "survival", resampled=True)
    scored = score_run(survival_run(), "survival", resampled=True)
    pd.testing.assert_frame_equal(read, scored)
    write_table(scored, tmp_path / "metrics.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "metrics.parquet"), scored)


def test_row_order_does_not_matter():
    run = survival_run()
    shuffled = score_run(run.sample(frac=1, random_state=0), "survival", resampled=True)
    pd.testing.assert_frame_equal(shuffled, score_run(run, "survival", resampled=True))


@pytest.mark.parametrize(("run", "kind"), [(survival_run(), "survival"), (class_run(), "classification")])
def test_a_single_split_has_replicates_of_every_metric(run, kind):
    metrics = score_run(run, kind, resampled=True)
    metrics = metrics[metrics["value"].notna()].set_index("metric")
    assert set(metrics.index) == set(SURVIVAL_METRICS if kind == "survival" else CLASSIFICATION_METRICS)
    for name, (value, found) in metrics[["value", "replicates"]].iterrows():
        assert found.shape == (RESAMPLES,), name
        low, high = np.nanquantile(found, [0.025, 0.975])
        assert low < value < high, name
    assert score_run(run, kind)["replicates"].isna().all()


def test_replicates_have_the_censoring_weights_of_the_training_part():
    run = survival_run()
    train, test = (run[run["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    known = train["time_days"].to_numpy(), train["event"].to_numpy()
    found = score_run(run, "survival", resampled=True).set_index("metric")["replicates"]
    for k, row in enumerate(draw_counts(len(test))[:20].astype(int)):
        drawn = test.loc[np.repeat(np.arange(len(test)), row)]
        time, event, risk = (drawn[name].to_numpy() for name in ("time_days", "event", "risk"))
        assert found["harrell_c"][k] == pytest.approx(harrell_c(risk, time, event))
        assert found["uno_c"][k] == pytest.approx(uno_c(*known, time, event, risk))


def digest(run, **options):
    return score_run(run, "survival", **options)["cases"].iloc[0]


def test_the_digest_tells_test_cases_and_outcomes_and_nothing_else():
    run = survival_run()
    test = run["part"] == "test"
    assert digest(run) == digest(survival_run(seed=1).sample(frac=1, random_state=0))
    assert digest(run) == digest(run.assign(event=run["event"].astype("float32"), label=np.nan))
    assert digest(run) == digest(run[test])
    assert digest(run) != digest(run[run.index != run.index[test][0]])
    assert digest(run) != digest(run.assign(time_days=run["time_days"] + test))
    assert digest(run) != digest(run.assign(case_id="other " + run["case_id"]))


def test_cases_without_shared_names_are_told_by_their_outcomes_and_not_resampled():
    run = survival_run()
    named = run.assign(case_id=np.random.default_rng(0).permutation(run["case_id"]))
    assert digest(run, anonymous=True) == digest(named, anonymous=True)
    assert digest(run) != digest(named)
    assert digest(run, anonymous=True) != digest(run.assign(time_days=run["time_days"] + 1), anonymous=True)
    assert score_run(run, "survival", anonymous=True, resampled=True)["replicates"].isna().all()


def test_classification_run():
    metrics = of_cases(class_run(), "classification")
    assert list(metrics["metric"]) == list(CLASSIFICATION_METRICS)
    assert metrics["value"].between(0, 1).all()


def test_all_censored_split_is_noted_and_the_others_stand():
    none = survival_run(1)
    none.loc[none["part"] == "test", "event"] = 0
    metrics = of_cases(pd.concat([survival_run(0), none]), "survival")
    bad = metrics[metrics["split"] == 1].set_index("metric")
    assert bad.loc[["harrell_c", "uno_c", "time_auc"], "value"].isna().all()
    assert set(bad.loc[["harrell_c", "uno_c", "time_auc"], "note"]) == {"no event"}
    assert metrics.loc[metrics["split"] == 0, "value"].notna().all()


def test_training_cases_and_curves_absent():
    run = survival_run()
    metrics = of_cases(run[run["part"] == "test"], "survival").set_index("metric")
    assert np.isfinite(metrics.loc["harrell_c", "value"])
    assert metrics["note"].iloc[1:].str.contains("no training cases").all()
    metrics = of_cases(run.assign(survival_times=None, survival=None), "survival").set_index("metric")
    assert metrics["value"].notna().tolist() == [True, True, False, False]
    assert metrics.loc["time_auc", "note"] == "the model gives no survival curves"


def test_split_without_a_test_part():
    metrics = of_cases(survival_run().assign(part="train"), "survival")
    assert metrics["value"].isna().all()
    assert (metrics["note"] != "").all()
    metrics = of_cases(class_run().assign(part="train"), "classification")
    assert set(metrics["note"]) == {"no case"}
    for run, kind in ((survival_run(), "survival"), (class_run(), "classification")):
        assert score_run(run.assign(part="train"), kind, resampled=True)["replicates"].isna().all()


def test_absent_class_is_noted():
    run = class_run()
    metrics = score_run(run[run["label"] != 2], "classification").set_index("metric")
    assert metrics.loc["macro_auc", "note"] == "class 2 has no case"
    assert np.isfinite(metrics.loc["accuracy", "value"])


def change(frame, row, column, value):
    frame = frame.copy()
    column_values = list(frame[column])
    column_values[row] = value
    frame[column] = column_values
    return frame


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("case_id", "TCGA-0000", "case TCGA-0000 of split 0 occurs more than once"),
        ("risk", np.nan, "case TCGA-0003 .* risk that is not a finite"),
        ("risk", np.inf, "risk that is not a finite"),
        ("time_days", -1.0, "negative time"),
        ("time_days", None, "time_days that is not a finite"),
        ("event", 2, "event other than 0 and 1"),
        ("part", "holdout", "part other than train, val, test"),
        ("split", None, "has no split"),
        ("survival", None, "no survival curve although"),
        ("survival", np.ones(3), "another length"),
        ("survival", np.array([1, 0.5, np.nan, 0.1]), "outside 0 to 1"),
        ("survival_times", np.array([1.0, 2, 3, 4]), "other survival_times"),
    ],
)
def test_broken_survival_predictions_name_the_case(column, value, reason):
    with pytest.raises(InputError, match=reason):
        score_run(change(survival_run(), 3, column, value), "survival")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("probabilities", np.array([0.5, 0.3, 0.1]), "case TCGA-0003 .* do not sum to 1"),
        ("probabilities", np.array([0.5, 0.5]), "has not 3 probabilities"),
        ("probabilities", np.array([1.5, -0.5, 0]), "not ≥ 0"),
        ("probabilities", None, "no probabilities"),
        ("label", None, "has no label"),
        ("label", 3, "whole number from 0 to 2"),
    ],
)
def test_broken_classification_predictions_name_the_case(column, value, reason):
    with pytest.raises(InputError, match=reason):
        score_run(change(class_run(), 3, column, value), "classification")


def test_times_that_do_not_increase():
    run = survival_run()
    run["survival_times"] = [np.array([1.0, 1, 2, 3])] * len(run)
    with pytest.raises(InputError, match="increase"):
        score_run(run, "survival")


def test_missing_column_empty_frame_and_unknown_kind():
    with pytest.raises(InputError, match="lack the column risk"):
        score_run(survival_run().drop(columns="risk"), "survival")
    with pytest.raises(InputError, match="no case"):
        score_run(survival_run().head(0), "survival")
    with pytest.raises(InputError, match="regression"):
        score_run(survival_run(), "regression")

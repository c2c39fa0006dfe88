"""Summaries over splits and seeds, by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from histofuse.evaluation.statistics import corrected_half_width, corrected_paired_test
from histofuse.evaluation.summary import COLUMNS, OTHER_CASES, PAIRED_BOOTSTRAP, PAIRED_T, summarise
from histofuse.io import InputError


def metrics(row, values, metric="harrell_c", cohort="glioma", n_train=80, **changes):
    """Values [splits, seeds] as the tidy frame of one table row."""
    rows = [
        {"row": row, "cohort": cohort, "task": "survival", "protocol": "mccv15", "metric": metric}
        | {"split": split, "seed": seed, "value": value, "n_train": n_train, "n_test": 20, "n_events_test": 9}
        | {"note": "" if np.isfinite(value) else "no event", "cases": f"test cases of {split}", "replicates": None}
        for split, seeds in enumerate(values)
        for seed, value in enumerate(seeds)
    ]
    return pd.DataFrame(rows).assign(**changes)


A = [[0.80, 0.82], [0.70, 0.74], [0.78, 0.78]]
B = [[0.75, 0.75], [0.71, 0.71], [0.70, 0.72]]


def summary_of(*frames, **options):
    summary = summarise(pd.concat(frames, ignore_index=True), **options)
    assert list(summary.columns) == COLUMNS
    return summary.set_index(["row", "metric"])


def test_mean_over_splits_of_the_mean_over_seeds():
    row = summary_of(metrics("a", A), reference=None).loc["a", "harrell_c"]
    per_split = [0.81, 0.72, 0.78]
    assert row["estimate"] == pytest.approx(np.mean(per_split))
    assert row["half_width_t"] == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(per_split))
    half = corrected_half_width(per_split, 0.25)
    assert (row["ci_low"], row["ci_high"]) == (row["estimate"] - half, row["estimate"] + half)
    assert (row["n_splits"], row["n_seeds"], row["n_splits_left_out"]) == (3, 2, 0)
    assert row["seed_sd"] == pytest.approx(np.sqrt((0.0002 + 0.0008 + 0) / 3))


def test_paired_test_against_the_reference():
    summary = summary_of(metrics("a", A), metrics("b", B), reference="b")
    t, p = corrected_paired_test([0.06, 0.01, 0.07], 0.25)
    assert summary.loc["a", "harrell_c"]["p_value"] == pytest.approx(p)
    assert summary.loc["a", "harrell_c"]["t"] == pytest.approx(t)
    assert np.isnan(summary.loc["b", "harrell_c"]["p_value"])
    assert summary["test"].to_dict() == {("a", "harrell_c"): PAIRED_T, ("b", "harrell_c"): ""}


@pytest.mark.parametrize("cases", [["test cases of 0", "test cases of 1", "others"], ["x", "y", "z"]])
def test_rows_scored_on_other_cases_of_a_split_are_not_tested(cases):
    other = metrics("a", A)
    other["cases"] = other["split"].map(dict(enumerate(cases)))
    row = summary_of(other, metrics("b", B), reference="b").loc["a", "harrell_c"]
    assert np.isnan(row["p_value"])
    assert np.isnan(row["t"])
    assert row["test"] == OTHER_CASES
    assert row["ci_low"] < row["estimate"] < row["ci_high"]


def test_splits_that_only_one_row_has_do_not_matter():
    row = summary_of(metrics("a", A), metrics("b", B[:2]), reference="b").loc["a", "harrell_c"]
    assert row["p_value"] == pytest.approx(corrected_paired_test([0.06, 0.01], 0.25)[1])


def test_holm_runs_over_the_rows_of_one_metric():
    rows = [
        metrics(name, np.array(B) + shift)
        for name, shift in (("a", [[0.01], [0.02], [0.03]]), ("c", [[0.05], [0.01], [0]]))
    ]
    other = metrics("a", np.add(B, [[0.1], [0.11], [0.1]]), metric="uno_c")
    summary = summary_of(*rows, metrics("b", B), other, metrics("b", B, metric="uno_c"), reference="b")
    p = summary.loc[[("a", "harrell_c"), ("c", "harrell_c")], "p_value"]
    assert summary.loc[p.idxmin(), "p_adjusted"] == pytest.approx(2 * p.min())
    assert summary.loc[("a", "uno_c"), "p_adjusted"] == summary.loc[("a", "uno_c"), "p_value"]


def test_a_split_without_a_value_is_left_out_and_counted():
    broken = [[0.80, 0.82], [np.nan, 0.74], [0.78, 0.78]]
    summary = summary_of(metrics("a", broken), metrics("b", B), reference="b")
    row = summary.loc["a", "harrell_c"]
    assert row["estimate"] == pytest.approx((0.81 + 0.78) / 2)
    assert (row["n_splits"], row["n_splits_left_out"], row["note"]) == (2, 1, "no event")
    assert row["p_value"] == pytest.approx(corrected_paired_test([0.06, 0.07], 0.25)[1])


def test_no_split_with_a_value():
    row = summary_of(metrics("a", [[np.nan]]), reference=None).loc["a", "harrell_c"]
    assert np.isnan(row["estimate"])
    assert (row["n_splits"], row["n_seeds"]) == (0, 0)


def one_split(row, values, seed, n_cases=200, **changes):
    """Values [seeds] of one split, each with replicates around it; what its seeds share is in all of `seed`."""
    rng = np.random.default_rng(seed)
    frame = metrics(row, [values])
    shared = 0.03 * rng.normal(size=n_cases)
    frame["replicates"] = [value + shared + 0.04 * rng.normal(size=n_cases) for value in values]
    return frame.assign(**changes)


def test_a_single_split_has_the_bootstrap_interval_of_the_mean_over_seeds():
    """Not the mean of the seeds' intervals, which is wider: what differs between seeds averages out."""
    frame = one_split("a", [0.8, 0.7, 0.75], seed=0)
    row = summary_of(frame, reference=None).loc["a", "harrell_c"]
    replicates = np.stack(frame["replicates"])
    assert row["estimate"] == pytest.approx(0.75)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(np.quantile(replicates.mean(axis=0), [0.025, 0.975])))
    of_seeds = np.quantile(replicates, [0.025, 0.975], axis=1).mean(axis=1)
    assert row["ci_high"] - row["ci_low"] < 0.85 * (of_seeds[1] - of_seeds[0])
    assert np.isnan(row["half_width_t"])


@pytest.mark.parametrize("metric", ["uno_c", "slide_f1"])
def test_a_single_split_is_tested_within_each_resample(metric):
    ours, theirs = one_split("a", [0.8, 0.7], seed=0, metric=metric), one_split("b", [0.72], seed=0, metric=metric)
    summary = summary_of(ours, theirs, reference="b")
    row = summary.loc["a", metric]
    difference = np.stack(ours["replicates"]).mean(axis=0) - theirs["replicates"].iloc[0]
    assert row["p_value"] == pytest.approx(2 * (1 + (difference <= 0).sum()) / 201)
    assert row["test"] == PAIRED_BOOTSTRAP
    assert np.isnan(row["t"])
    other = summary_of(ours.assign(cases="others"), theirs, reference="b").loc["a", metric]
    assert np.isnan(other["p_value"])
    assert other["test"] == OTHER_CASES
    assert (other["ci_low"], other["ci_high"]) == (row["ci_low"], row["ci_high"])


def test_one_split_of_several_that_has_a_value_has_no_interval():
    row = summary_of(metrics("a", [[0.8], [np.nan]]), reference=None).loc["a", "harrell_c"]
    assert (row["n_splits"], row["n_splits_left_out"]) == (1, 1)
    assert np.isnan(row["ci_low"])


def test_without_training_cases_the_ratio_must_be_given():
    frame = metrics("a", A, n_train=0)
    assert np.isnan(summary_of(frame, reference=None).loc["a", "harrell_c"]["ci_low"])
    given = summary_of(frame, reference=None, test_to_train=0.25).loc["a", "harrell_c"]
    known = summary_of(metrics("a", A), reference=None).loc["a", "harrell_c"]
    assert given["ci_low"] == known["ci_low"]


def test_rows_of_another_cohort_are_not_tested():
    summary = summary_of(metrics("a", A, cohort="kidney"), metrics("b", B), reference="b")
    assert summary["p_value"].isna().all()


def test_a_reference_that_was_not_run_leaves_estimates():
    summary = summary_of(metrics("a", A), reference="gone")
    assert summary["p_value"].isna().all()
    assert np.isfinite(summary.loc["a", "harrell_c"]["estimate"])


def test_a_run_given_twice_is_refused():
    with pytest.raises(InputError, match=r"row 'a' has harrell_c twice for split 0, seed 0"):
        summary_of(metrics("a", A), metrics("a", A), reference=None)

"""Summaries over splits and seeds, by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from histofuse.evaluation.statistics import corrected_half_width, corrected_paired_test
from histofuse.evaluation.summary import COLUMNS, summarise
from histofuse.io import InputError


def metrics(row, values, metric="harrell_c", cohort="glioma", n_train=80, **changes):
    """Values [splits, seeds] as the tidy frame of one table row."""
    rows = [
        {"row": row, "cohort": cohort, "task": "survival", "protocol": "mccv15", "metric": metric}
        | {"split": split, "seed": seed, "value": value, "n_train": n_train, "n_test": 20, "n_events_test": 9}
        | {
            "note": "" if np.isfinite(value) else "no event",
            "case_low": value - 0.1,
            "case_high": value + 0.1,
        }
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


def test_a_single_split_takes_the_bootstrap_interval():
    row = summary_of(metrics("a", [[0.8, 0.7]]), reference=None).loc["a", "harrell_c"]
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(0.65), pytest.approx(0.85))
    assert np.isnan(row["half_width_t"])


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

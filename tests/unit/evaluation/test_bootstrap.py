"""Intervals and tests from replicates, worked by hand."""

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.bootstrap import mean_replicates, paired_p_value, percentile_interval


def models(**changes):
    """Two splits with two seeds, three resamples of the same cases."""
    values = [[0.5, 0.6, 0.7], [0.7, 0.8, 0.9], [0.3, 0.4, 0.5], [0.5, 0.2, 0.1]]
    frame = pd.DataFrame({"split": [0, 0, 1, 1], "seed": [0, 1, 0, 1], "replicates": map(np.array, values)})
    return frame.assign(cases="a").assign(**changes)


def test_mean_over_splits_of_the_mean_over_seeds_in_each_resample():
    np.testing.assert_allclose(mean_replicates(models()), [0.5, 0.5, 0.55])
    np.testing.assert_allclose(mean_replicates(models().iloc[1:]), [(0.7 + 0.4) / 2, (0.8 + 0.3) / 2, (0.9 + 0.3) / 2])


def test_no_mean_over_models_of_different_cases_or_without_replicates():
    assert mean_replicates(models(cases=list("aaab"))) is None
    assert mean_replicates(models().head(0)) is None
    lacking = models()
    lacking.at[2, "replicates"] = None
    assert mean_replicates(lacking) is None


def test_equal_models_have_p_one_and_unknown_ones_none():
    values = np.linspace(0.5, 0.7, 100)
    assert paired_p_value(values, values) == 1.0
    assert paired_p_value(values + 0.1, values) == pytest.approx(2 / 101)
    assert np.isnan(paired_p_value(values, None))


def test_resamples_without_a_value_are_left_out_unless_they_are_most():
    values = np.concatenate([np.full(40, np.nan), np.linspace(0, 1, 60)])
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentile_interval(np.where(values > 0.5, values, np.nan))).all()
    assert np.isnan(percentile_interval(None)).all()

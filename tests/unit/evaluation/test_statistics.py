"""Intervals and tests against scipy, a published worked case and simulation."""

import numpy as np
import pytest
from scipy import stats

from histofuse.evaluation.statistics import (
    corrected_half_width,
    corrected_paired_test,
    holm,
    t_half_width,
)

VALUES = np.array([0.81, 0.84, 0.79, 0.86, 0.80])


def test_t_half_width_equals_scipy():
    low, high = stats.t.interval(0.95, len(VALUES) - 1, VALUES.mean(), stats.sem(VALUES))
    assert t_half_width(VALUES) == pytest.approx((high - low) / 2)


def test_correction_of_fifteen_splits_is_a_factor_of_2_18():
    # specs: 15 splits of 80/20 widen the interval by sqrt(1 + 15/4) = 2.18
    values = np.random.default_rng(0).normal(size=15)
    assert corrected_half_width(values, 0.25) / t_half_width(values) == pytest.approx(np.sqrt(4.75))


def test_fewer_than_two_values_have_no_interval():
    assert np.isnan(t_half_width([0.8]))
    assert np.isnan(corrected_half_width([], 0.25))
    assert np.isnan(corrected_paired_test([0.1], 0.25)).all()


def test_paired_test_without_correction_is_the_paired_t_test():
    t, p = corrected_paired_test(VALUES - VALUES[::-1] + 0.01, test_to_train=0)
    theirs = stats.ttest_rel(VALUES + 0.01, VALUES[::-1])
    assert (t, p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))


def test_paired_test_by_hand():
    # mean 2, s = 1, J = 3, ratio 1/4: t = 2 / sqrt(1/3 + 1/4)
    t, p = corrected_paired_test([1.0, 2.0, 3.0], 0.25)
    assert t == pytest.approx(2 / np.sqrt(7 / 12))
    assert p == pytest.approx(2 * stats.t.sf(t, 2))


def test_equal_models_differ_by_nothing():
    assert corrected_paired_test(np.zeros(5), 0.25) == (0, 1)


def test_the_interval_and_the_test_agree():
    # The corrected interval of the differences just touches 0 exactly where p = 0.05.
    differences = VALUES - VALUES.mean()
    shifted = differences + corrected_half_width(differences, 0.25)
    assert corrected_paired_test(shifted, 0.25)[1] == pytest.approx(0.05)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, then never below the one before.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.6, np.nan, 0.7]), [1, np.nan, 1])
    assert holm([]).size == 0

"""Fitting on the training part alone: levels, medians, choice of columns, z-scores."""

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.training.scaling import BlockScaler


def test_z_scores_use_training_figures_and_are_clipped():
    train = pd.DataFrame({"a": [1.0, 3.0], "b": [0.0, 10.0]})
    scaler = BlockScaler().fit(train)
    out = scaler.apply(pd.DataFrame({"a": [2.0, 3515.0], "b": [5.0, -100.0]}))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[0, 0], [5, -5]])


def test_missing_numbers_take_the_training_median_also_in_nullable_columns():
    train = pd.DataFrame({"a": [1.0, 2.0, 9.0], "b": pd.array([1, None, 3], dtype="Int8")})
    scaler = BlockScaler().fit(train)
    out = scaler.apply(pd.DataFrame({"a": [np.nan], "b": pd.array([None], dtype="Int8")}))
    np.testing.assert_allclose(out[0], [(2 - 4) / np.std([1, 2, 9]), 0], atol=1e-6)


def test_categories_become_indicators_of_training_levels():
    train = pd.DataFrame({"sex": ["f", "f", "m", None], "oncotree": ["GBM", "ODG", "GBM", "ASTR"]})
    scaler = BlockScaler().fit(train)
    assert scaler.names == ["sex=m", "oncotree=ASTR", "oncotree=ODG"]  # the most frequent level is the reference
    out = scaler.apply(pd.DataFrame({"sex": ["m", None], "oncotree": ["GBM", "unseen"]}))
    assert (out[0] > 0).tolist() == [True, False, False]
    np.testing.assert_allclose(out[1, 1:], out[0, 1:])  # an unseen level looks like the reference


def test_constant_columns_go_and_nothing_left_is_an_error():
    scaler = BlockScaler().fit(pd.DataFrame({"constant": [1.0, 1, 1], "gene": [1.0, 2, 3]}))
    assert scaler.names == ["gene"]
    with pytest.raises(InputError, match="no usable column"):
        BlockScaler().fit(pd.DataFrame({"constant": [1.0, 1, 1]}))


def test_filters_look_at_the_training_part_only():
    train = pd.DataFrame({"rare_mut": [0.0] * 9 + [1], "common_mut": [0.0, 1] * 5, "loud": np.arange(10.0) * 9})
    assert BlockScaler(min_frequency=0.2).fit(train).names == ["common_mut", "loud"]
    assert BlockScaler(top_variance=1).fit(train).names == ["loud"]
    assert BlockScaler(top_variance=0.67).fit(train).names == ["common_mut", "loud"]
    assert BlockScaler(suffixes=["_mut"]).fit(train).names == ["rare_mut", "common_mut"]
    assert BlockScaler(columns=["loud"]).fit(train).names == ["loud"]


def test_an_unknown_column_is_named():
    with pytest.raises(InputError, match="no column stage; there are age"):
        BlockScaler(columns=["stage"]).fit(pd.DataFrame({"age": [1.0, 2]}))

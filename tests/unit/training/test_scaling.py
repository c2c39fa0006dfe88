"""Fitting on the training part alone: levels, medians, choice of columns, z-scores."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

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
    assert BlockScaler(suffixes=["_mut"]).fit(train).names == ["rare_mut", "common_mut"]
    assert BlockScaler(columns=["loud"]).fit(train).names == ["loud"]


def test_alterations_count_by_their_kind():
    """A mutation counts where it is there, a copy-number call where it is strong, or at level 1 wherever it is."""
    train = pd.DataFrame(
        {
            "A_mut": np.array([1, 1, 0, 0, 0], np.int8),
            "B_cnv": np.array([-2, 2, 0, 0, 0], np.int8),
            "C_cnv": np.array([-1, 1, 0, 2, 0], np.int8),
            "D_cnv": np.array([0, 1, 0, 0, 0], np.int8),
        }
    )
    assert BlockScaler(min_frequency=0.4).fit(train).names == ["A_mut", "B_cnv"]
    assert BlockScaler(min_frequency=0.4, cnv_level=1).fit(train).names == ["A_mut", "B_cnv", "C_cnv"]
    assert BlockScaler(min_frequency=0.2, cnv_level=1).fit(train).names == train.columns.tolist()


@pytest.fixture
def two_sources():
    """30 cases of `big` in large units, 12 of `small` in little ones, 4 of `few`: too few for figures of their own."""
    rng = np.random.default_rng(5)
    sources = pd.Series(["big"] * 30 + ["small"] * 12 + ["few"] * 4, index=[f"C{k}" for k in range(46)])
    scale = sources.map({"big": 10.0, "small": 0.1, "few": 1.0}).to_numpy()
    values = rng.normal(size=(46, 6)) * scale[:, None] + scale[:, None] * 3
    return pd.DataFrame(values, index=sources.index, columns=list("abcdef")), sources


def test_each_source_is_scaled_by_its_own_training_cases(two_sources):
    train, sources = two_sources
    scaler = BlockScaler(per_source=True, clip=99).fit(train, sources)
    out = pd.DataFrame(scaler.apply(train, sources), index=train.index)
    for source in ("big", "small"):
        rows = sources == source
        expected = StandardScaler().fit(train[rows]).transform(train[rows])
        np.testing.assert_allclose(out[rows], expected, atol=1e-5)
    whole = StandardScaler().fit(train)
    np.testing.assert_allclose(out[sources == "few"], whole.transform(train[sources == "few"]), atol=1e-5)
    new = train.head(2).set_axis(["N1", "N2"])
    of_new = pd.Series({"N1": "never seen"})  # and nothing is known of N2
    np.testing.assert_allclose(scaler.apply(new, of_new), whole.transform(new), atol=1e-5)


def test_missing_values_do_not_tell_the_source(two_sources):
    train, sources = two_sources
    train.loc[["C0", "C35"], "a"] = np.nan
    scaler = BlockScaler(per_source=True, clip=99).fit(train, sources)
    big = train.loc[sources == "big", "a"]
    filled = big.fillna(big.median())
    expected = (big.median() - filled.mean()) / filled.std(ddof=0)
    assert scaler.apply(train, sources)[0, 0] == pytest.approx(expected, abs=1e-5)


def test_columns_that_only_tell_the_source_go(two_sources):
    train, sources = two_sources
    train, sources = train[sources != "few"], sources[sources != "few"]
    train = train.assign(source_only=(sources == "big") * 7.0, in_big=train["a"].where(sources == "big", 2.5))
    scaler = BlockScaler(per_source=True).fit(train, sources)
    assert scaler.names == [*"abcdef", "in_big"]
    assert (scaler.apply(train, sources)[sources == "small", -1] == 0).all()  # constant there
    assert np.isfinite(scaler.apply(train * 3, sources)).all()


def test_normal_scores_are_those_of_mid_ranks():
    rng = np.random.default_rng(1)
    train = pd.DataFrame({"continuous": rng.normal(size=41), "ties": rng.poisson(0.7, 41).astype(float)})
    scaler = BlockScaler(quantile=True).fit(train)
    expected = norm.ppf((rankdata(train.to_numpy(), axis=0) - 0.5) / 41)
    np.testing.assert_allclose(scaler.apply(train), expected, atol=1e-6)
    ordered = np.sort(train["continuous"])
    new = np.array([-99, ordered[:2].mean(), ordered[20], 99])
    out = scaler.apply(pd.DataFrame({"continuous": new, "ties": [-1.0, 0.5, 0.0, 99]}))
    np.testing.assert_allclose(out[:, 0], norm.ppf(np.array([0.5, 1, 20.5, 40.5]) / 41), atol=1e-6)
    zeros = (train["ties"] == 0).sum()
    np.testing.assert_allclose(out[:, 1], norm.ppf(np.array([0.5, zeros, zeros / 2, 40.5]) / 41), atol=1e-6)


def test_normal_scores_per_source(two_sources):
    train, sources = two_sources
    out = BlockScaler(quantile=True, per_source=True).fit(train, sources).apply(train, sources)
    small = (sources == "small").to_numpy()
    np.testing.assert_allclose(out[small], norm.ppf((rankdata(train[small], axis=0) - 0.5) / 12), atol=1e-6)


@pytest.mark.parametrize("genes", [6, 200])
def test_components_are_those_of_sklearn(genes):
    rng = np.random.default_rng(2)
    train = pd.DataFrame(rng.normal(size=(40, 3)) @ rng.normal(size=(3, genes)) + rng.normal(size=(40, genes)) * 0.3)
    train.columns = [f"G{k}" for k in range(genes)]
    new = train.head(7) + 0.1
    scaler = BlockScaler(components=4, clip=99).fit(train)
    z = StandardScaler().fit(train)
    reference = PCA(4, svd_solver="full").fit(z.transform(train))
    unit = reference.transform(z.transform(train))[:, 0].std()
    np.testing.assert_allclose(scaler.apply(new), reference.transform(z.transform(new)) / unit, atol=1e-5)
    assert scaler.apply(train)[:, 0].std() == pytest.approx(1, abs=1e-5)
    plain = BlockScaler(components=4, standardise=False).fit(train)
    np.testing.assert_allclose(plain.apply(new), PCA(4, svd_solver="full").fit(train).transform(new), atol=1e-4)


def test_components_end_with_the_cases_and_with_the_rank():
    rng = np.random.default_rng(3)
    train = pd.DataFrame(rng.normal(size=(5, 30)))
    train.columns = [f"G{k}" for k in range(30)]
    assert BlockScaler(components=99).fit(train).apply(train).shape == (5, 4)
    twice = pd.concat([train.iloc[:3]] * 2, ignore_index=True)
    out = BlockScaler(components=99).fit(twice).apply(twice)
    assert out.shape == (6, 2)
    np.testing.assert_array_equal(out[:3], out[3:])


def test_values_as_they_are():
    train = pd.DataFrame({"a": [1.0, 3.0, np.nan, 900.0], "constant": [2.0] * 4})
    scaler = BlockScaler(standardise=False).fit(train)
    np.testing.assert_array_equal(scaler.apply(train), [[1, 2], [3, 2], [3, 2], [900, 2]])
    assert list(scaler.arrays()) == ["median"]
    with pytest.raises(InputError, match="standardise: false leaves values as they are"):
        BlockScaler(standardise=False, quantile=True)
    with pytest.raises(InputError, match="per_source: nothing says which source a case is of"):
        BlockScaler(per_source=True).fit(train)


@pytest.mark.parametrize("options", [{}, {"quantile": True}, {"components": 3}, {"standardise": False}])
@pytest.mark.parametrize("per_source", [False, True])
def test_fitting_again_gives_the_same_bits(two_sources, options, per_source):
    if per_source and "standardise" in options:
        return
    train, sources = two_sources
    one, two = (BlockScaler(**options, per_source=per_source).fit(train, sources) for _ in range(2))
    assert one.arrays().keys() == two.arrays().keys()
    for name, values in one.arrays().items():
        np.testing.assert_array_equal(values, two.arrays()[name])
        assert len(values) == len(one.names) or values.shape[-1] == len(one.names)


def test_an_unknown_column_is_named():
    with pytest.raises(InputError, match="no column stage; there are age"):
        BlockScaler(columns=["stage"]).fit(pd.DataFrame({"age": [1.0, 2]}))
    many = pd.DataFrame(np.zeros((2, 7)), columns=list("abcdefg"))
    with pytest.raises(InputError, match=r"no column r, s, t, u, v … \(6 in all\); there are a, b, c, d, e … \(7 in"):
        BlockScaler(columns=list("rstuvw")).fit(many)

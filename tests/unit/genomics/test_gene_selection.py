"""Highly variable genes: by hand, against scanpy, per training part."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy

from histofuse.genomics import variability
from histofuse.genomics.selection import highly_variable, read_counts, select_genes, select_panel
from histofuse.io import InputError


def table(*columns):
    values = np.column_stack(columns).astype(np.float32)
    return pd.DataFrame(values, index=[f"C{k}" for k in range(len(values))], columns=list("ABCDEFG")[: len(columns)])


@pytest.fixture(scope="module")
def counts():
    """60 cases × 400 genes of overdispersed counts; every tenth gene is silent."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(3, 1.5, 400))
    values = rng.poisson(rng.gamma(1 / rng.uniform(0.05, 1.5, 400), size=(60, 400)) * mean)
    values[:, ::10] = 0
    return pd.DataFrame(values, index=[f"C{k:02}" for k in range(60)], columns=[f"G{k:03}" for k in range(400)])


@pytest.fixture(scope="module")
def log_tpm(counts):
    return np.log2(1 + counts.div(counts.sum(axis=1), axis=0) * 1e6)


def test_the_largest_variance_comes_first_and_ties_go_to_the_earlier_gene():
    genes = highly_variable(table([0, 2, 4], [1, 1, 1], [0, 4, 8], [5, 7, 9]), top=2)
    assert genes["gene"].tolist() == list("ABCD")
    np.testing.assert_allclose(genes["score"], [8 / 3, np.nan, 32 / 3, 8 / 3])
    assert genes["rank"].tolist() == [2, 4, 1, 3]
    assert genes["selected"].tolist() == [True, False, True, False]


def test_top_is_a_share_or_a_number(log_tpm):
    assert highly_variable(log_tpm, 0.3)["selected"].sum() == 120
    assert highly_variable(log_tpm, 7)["selected"].sum() == 7
    assert highly_variable(log_tpm, 1e-9)["selected"].sum() == 1
    everything = highly_variable(log_tpm, 10_000)
    assert everything["selected"].sum() == 360
    assert not everything["selected"][::10].any()  # silent genes never vary


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger", "seurat_v3"])
def test_flavours_choose_as_scanpy_does(flavour, counts, log_tpm):
    if flavour == "seurat_v3":
        pytest.importorskip("skmisc")
        reference = anndata.AnnData(counts.astype(float))
    else:
        natural = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e6)
        reference = anndata.AnnData(natural)
    scanpy.pp.highly_variable_genes(reference, flavor=flavour, n_top_genes=50)
    ours = highly_variable(log_tpm, 50, flavour, counts)
    assert ours["selected"].sum() == 50
    assert set(ours.loc[ours["selected"], "gene"]) == set(reference.var_names[reference.var["highly_variable"]])


def test_genes_are_chosen_on_the_training_cases_that_have_expression(log_tpm):
    cases = [*log_tpm.index, "without"]
    parts = np.array([["train"] * 40 + ["test"] * 20 + ["train"], ["test"] * 30 + ["train"] * 31])
    splits = pd.concat(pd.DataFrame({"split": k, "case_id": cases, "part": part}) for k, part in enumerate(parts))
    genes = select_genes(log_tpm, splits, 0.1)
    assert genes.columns.tolist() == ["split", "gene", "score", "rank", "selected"]
    for split, rows in enumerate([slice(0, 40), slice(30, 60)]):
        mine = genes[genes["split"] == split].reset_index(drop=True)
        variance = np.var(log_tpm.to_numpy()[rows], axis=0)
        np.testing.assert_allclose(mine["score"].fillna(0), variance, rtol=1e-6)
        assert set(mine.loc[mine["selected"], "gene"]) == set(log_tpm.columns[np.argsort(-variance)[:40]])
    once = select_genes(log_tpm, splits, 0.1, fitted_on="all")
    first, second = (once[once["split"] == split].drop(columns="split").reset_index(drop=True) for split in (0, 1))
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, highly_variable(log_tpm, 0.1))


def test_a_shift_between_sources_is_no_variability(log_tpm):
    """Two platforms of which one reads every other gene far higher: the genes chosen are those without the shift."""
    sources = pd.Series(np.where(np.arange(60) < 20, "b", "a"), index=log_tpm.index)
    shifted = log_tpm.astype(float).copy()
    shifted.iloc[:20, 1::2] += 8
    splits = pd.DataFrame({"split": 0, "case_id": log_tpm.index, "part": ["train", "train", "test"] * 20})
    train = np.arange(60) % 3 < 2
    within = select_genes(shifted, splits, 0.3, sources=sources)
    small, large = (log_tpm.to_numpy()[train & (sources == name)] for name in "ba")
    by_hand = (len(small) * small.var(axis=0) + len(large) * large.var(axis=0)) / (len(small) + len(large))
    np.testing.assert_allclose(within["score"].fillna(0), by_hand, rtol=1e-9)
    pd.testing.assert_frame_equal(within, select_genes(log_tpm, splits, 0.3, sources=sources))
    pooled = select_genes(shifted, splits, 0.3, sources=sources, per_source=False)
    assert (pooled["selected"] != within["selected"]).sum() > 50
    pd.testing.assert_frame_equal(pooled, select_genes(shifted, splits, 0.3))


def test_one_source_is_what_it_was_and_what_was_published_is_pooled(log_tpm):
    splits = pd.DataFrame({"split": 0, "case_id": log_tpm.index, "part": "train"})
    one = pd.Series("gdc", index=log_tpm.index)
    pd.testing.assert_frame_equal(select_genes(log_tpm, splits, 0.3, sources=one), select_genes(log_tpm, splits, 0.3))
    two = pd.Series(np.where(np.arange(60) < 20, "b", "a"), index=log_tpm.index)
    for options in ({"fitted_on": "all"}, {"flavour": "seurat"}):
        found = select_genes(log_tpm, splits, 0.3, sources=two, **options)
        pd.testing.assert_frame_equal(found, select_genes(log_tpm, splits, 0.3, **options))
    within = select_genes(log_tpm, splits, 0.3, sources=two)
    pd.testing.assert_frame_equal(
        select_genes(log_tpm, splits, 0.3, fitted_on="all", sources=two, per_source=True), within
    )
    with pytest.raises(InputError, match="per_source: flavour seurat ranks all cases as one; choose variance"):
        select_genes(log_tpm, splits, 0.3, "seurat", sources=two, per_source=True)


def test_what_is_constant_in_every_source_is_not_selected():
    sources = pd.Series(["x", "x", "y", "y"], index=["C0", "C1", "C2", "C3"])
    genes = highly_variable(table([0.1, 0.1, 0.7, 0.7], [1, 2, 1, 3], [0, 0, 5, 6]), 3, sources=sources)
    np.testing.assert_allclose(genes["score"], [np.nan, 0.625, 0.125])
    assert genes["selected"].tolist() == [False, True, True]
    unnamed = highly_variable(table([0.1, 0.1, 0.7, 0.7], [1, 2, 1, 3], [0, 0, 5, 6]), 3, sources=sources.head(2))
    pd.testing.assert_frame_equal(unnamed, genes)


def test_bad_input_is_named(log_tpm, counts):
    splits = pd.DataFrame({"split": [4, 4], "case_id": ["C00", "C01"], "part": ["train", "test"]})
    with pytest.raises(InputError, match="split 4: 1 of 1 training cases have expression, not two"):
        select_genes(log_tpm, splits, 10)
    with pytest.raises(InputError, match="fitted_on 'test' is neither train nor all"):
        select_genes(log_tpm, splits, 10, fitted_on="test")
    with pytest.raises(InputError, match="flavour 'loud' is not one of variance, seurat"):
        highly_variable(log_tpm, 10, "loud")
    with pytest.raises(InputError, match="top is 0; give a share below 1"):
        highly_variable(log_tpm, 0)
    with pytest.raises(InputError, match="none of 2 genes varies over 3 training cases"):
        highly_variable(table([1, 1, 1], [2, 2, 2]), 1)
    with pytest.raises(InputError, match="case C1, gene B: the expression is not a number"):
        highly_variable(table([1, 2, 3], [2, np.nan, 2]), 1)


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger"])
def test_scanpys_flavours_refuse_what_is_not_log_tpm(flavour, log_tpm, counts):
    with pytest.raises(InputError, match=f"flavour {flavour} needs log2.*; the table's values reach from -"):
        highly_variable(log_tpm - log_tpm.mean(), 10, flavour)
    with pytest.raises(InputError, match=r"needs log2.*; the table's values reach from 0 to \d{3}"):
        highly_variable(counts.astype(float), 10, flavour)


def test_too_few_genes_for_scanpy_are_an_error_of_the_input(log_tpm):
    with pytest.raises(InputError, match="scanpy's flavour cell_ranger cannot rank 1 genes over 60 cases"):
        highly_variable(log_tpm[["G001"]], 1, "cell_ranger")


def test_the_flavour_of_counts_needs_counts(log_tpm, counts, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="seurat_v3 needs counts; choose variance"):
        highly_variable(log_tpm, 10, "seurat_v3")
    splits = pd.DataFrame({"split": 0, "case_id": log_tpm.index, "part": "train"})
    with pytest.raises(InputError, match="the counts do not fit the expression table: the genes are others"):
        select_genes(log_tpm, splits, 10, "seurat_v3", counts=counts.iloc[:, ::-1])
    with pytest.raises(InputError, match="the counts do not fit the expression table: case C59 is missing"):
        select_genes(log_tpm, splits, 10, "seurat_v3", counts=counts.head(59))
    with pytest.raises(InputError, match="which a published table does not have"):
        read_counts([])
    anndata.AnnData(log_tpm, layers={"tpm": log_tpm}).write_h5ad(tmp_path / "expression.h5ad")
    with pytest.raises(InputError, match=r"expression\.h5ad: there is no layer counts"):
        read_counts(tmp_path / "expression.h5ad")
    anndata.AnnData(log_tpm, layers={"counts": counts}).write_h5ad(tmp_path / "expression.h5ad")
    pd.testing.assert_frame_equal(read_counts(tmp_path / "expression.h5ad"), counts, check_names=False)
    with pytest.raises(InputError, match="seurat_v3 needs whole counts ≥ 0; these values were scaled"):
        highly_variable(log_tpm, 10, "seurat_v3", log_tpm)
    monkeypatch.setattr(variability, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package scikit-misc, which is not installed"):
        highly_variable(log_tpm, 10, "seurat_v3", counts)


def test_panel_is_the_same_for_every_split():
    log_tpm = pd.DataFrame(0.0, index=["a", "b"], columns=["EGFR", "GFAP", "OLIG2"])
    splits = pd.DataFrame({"split": [0, 1], "case_id": ["a", "b"], "part": "train"})
    panel = pd.DataFrame({"gene": ["OLIG2", "SOX2", "EGFR"], "score": [3.0, 2.0, 1.0], "rank": [1, 2, 3]})

    selection = select_panel(log_tpm, splits, panel)

    assert selection.groupby("split")["gene"].agg(list).tolist() == [["EGFR", "GFAP", "OLIG2"]] * 2
    assert selection["selected"].tolist() == [True, False, True] * 2
    with pytest.raises(InputError, match="none of the panel's 1 genes"):
        select_panel(log_tpm, splits, panel[panel["gene"] == "SOX2"])

"""Two cohorts with other genes, orders and units meet in one matrix."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from histofuse.genomics.expression import as_table, by_symbol, join_cohorts
from histofuse.io import InputError, atomic, sha256

GENES = ["A1BG", "EGFR", "IDH1", "SEPTIN7", "TP53"]


def cohort(cases, genes, tpm, counts=False):
    """A matrix as the cohorts' own jobs write it."""
    tpm = np.array(tpm, np.float32)
    layers = {"tpm": tpm, "log_tpm": np.log2(1 + tpm)} | ({"counts": tpm.astype(np.int32)} if counts else {})
    var = pd.DataFrame({"gene_name": genes, "gene_type": "protein_coding"}, index=genes)
    return AnnData(obs=pd.DataFrame({"batch": "x"}, index=cases), var=var, layers=layers)


def random_cohort(prefix, seed, genes=GENES, scale=1.0):
    rng = np.random.default_rng(seed)
    tpm = rng.gamma(0.5, 1.0, (4, len(genes))) + 0.1
    return cohort([f"{prefix}-{n}" for n in range(4)], list(genes), tpm / tpm.sum(axis=1, keepdims=True) * 1e6 * scale)


def test_shared_genes_in_one_order_and_one_unit():
    first = cohort(["T-2", "T-1"], ["TP53", "EGFR", "HOTAIR"], [[10, 30, 960], [5e5, 5e5, 0]], counts=True)
    second = cohort(["W1-1-2"], ["EGFR", "RN7SL1", "TP53"], [[1, 9e5, 3]])
    joined = join_cohorts([("tcga", first), ("ivy", second)])
    assert joined.var_names.tolist() == ["EGFR", "TP53"]
    assert joined.obs_names.tolist() == ["T-1", "T-2", "W1-1-2"]
    assert joined.obs["source"].tolist() == ["tcga", "tcga", "ivy"]
    assert list(joined.obs) == ["source"]
    assert joined.layers["tpm"].tolist() == [[5e5, 5e5], [7.5e5, 2.5e5], [2.5e5, 7.5e5]]
    np.testing.assert_allclose(joined.layers["log_tpm"], np.log2(1 + joined.layers["tpm"]), rtol=1e-6)
    assert set(joined.layers) == {"tpm", "log_tpm"}  # only one cohort has counts
    assert joined.var["gene_name"].tolist() == ["EGFR", "TP53"]
    assert as_table(joined).columns.tolist() == ["case_id", "EGFR", "TP53"]
    assert first.var_names.tolist() == ["TP53", "EGFR", "HOTAIR"]  # the members stay as they were
    assert first.layers["tpm"][0].tolist() == [10, 30, 960]


def test_counts_are_kept_where_all_have_them():
    first = cohort(["T-1"], ["TP53", "EGFR"], [[10, 30]], counts=True)
    second = cohort(["W-1"], ["EGFR", "TP53"], [[5, 6]], counts=True)
    joined = join_cohorts([("a", first), ("b", second)])
    assert joined.layers["counts"].tolist() == [[30, 10], [5, 6]]


def test_neither_order_nor_unit_of_a_cohort_changes_anything(tmp_path):
    first, second = random_cohort("T", 1), random_cohort("W", 2, [*GENES, "OLIG2", "SOX2"])
    shuffled = second[[2, 0, 3, 1], [6, 2, 0, 5, 3, 1, 4]].copy()
    for name, members in {
        "a": [("tcga", first), ("ivy", second)],
        "b": [("tcga", first[:, ::-1].copy()), ("ivy", shuffled)],
    }.items():
        with atomic(tmp_path / f"{name}.h5ad") as temporary:
            join_cohorts(members).write_h5ad(temporary)
    assert sha256(tmp_path / "a.h5ad") == sha256(tmp_path / "b.h5ad")
    per_thousand = random_cohort("W", 2, [*GENES, "OLIG2", "SOX2"], scale=1e-3)
    joined = [join_cohorts([("tcga", first), ("ivy", member)]) for member in (second, per_thousand)]
    np.testing.assert_allclose(joined[0].layers["tpm"], joined[1].layers["tpm"], rtol=1e-6)


def test_genes_under_older_names_meet():
    genes = pd.DataFrame({"gene_id": ["ENSG00000122545.22", "ENSG00000146648"], "gene_name": ["SEPT7", "EGFR"]})
    new = by_symbol({"tpm": np.array([[2.0, 1.0]])}, genes, "t")
    genes = pd.DataFrame({"gene_id": ["1956", "989"], "gene_name": ["EGFR", "SEPT7"]})
    old = by_symbol({"tpm": np.array([[1.0, 2.0]])}, genes, "t")
    old.obs_names = ["W-1"]
    joined = join_cohorts([("tcga", new), ("ivy", old)])
    assert joined.var_names.tolist() == ["EGFR", "SEPTIN7"]
    np.testing.assert_array_equal(joined.layers["tpm"][0], joined.layers["tpm"][1])


def broken(change):
    matrix = random_cohort("W", 2)
    return change(matrix) or matrix


def other_names(matrix):
    matrix.var_names = ["1", "2", "3", "EGFR", "TP53"]


def a_gene_twice(matrix):
    matrix.var_names = [*GENES[:4], "EGFR"]


def a_value(value):
    def change(matrix):
        matrix.layers["tpm"][1, 2] = value

    return change


def no_tpm(matrix):
    del matrix.layers["tpm"]


def nothing_expressed(matrix):
    matrix.layers["tpm"][3] = 0


def a_case_of_the_other(matrix):
    matrix.obs_names = ["W-0", "T-1", "W-2", "W-3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_names, r"only 2 of the 5 genes of cohort tcga are in the other cohorts; .*ivy \(1, 2, 3, …\)"),
        (a_gene_twice, "cohort ivy: gene EGFR is there twice"),
        (a_value(-1), "cohort ivy: case W-1, gene IDH1: TPM is -1"),
        (a_value(np.nan), "cohort ivy: case W-1, gene IDH1: TPM is nan"),
        (no_tpm, "cohort ivy: its matrix has no layer tpm; there are log_tpm"),
        (nothing_expressed, "cohort ivy: case W-3 expresses no shared gene"),
        (a_case_of_the_other, "case T-1 is in the cohorts tcga and ivy"),
    ],
)
def test_what_cannot_be_joined_is_named(change, message):
    with pytest.raises(InputError, match=message):
        join_cohorts([("tcga", random_cohort("T", 1)), ("ivy", broken(change))])

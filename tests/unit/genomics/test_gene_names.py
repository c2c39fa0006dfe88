"""Canonical gene names: former names of known genes, ambiguous ones, ids first; duplicates are summed."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, issparse

from histofuse.genomics import genes
from histofuse.genomics.genes import TABLE, GeneNames, canonical_columns, gene_names, sum_duplicates
from histofuse.io import InputError

# Renamed genes as their databases and papers tell them, not taken from the table under test.
RENAMED = {
    "SEPT7": "SEPTIN7",
    "MARCH1": "MARCHF1",
    "MLL": "KMT2A",
    "MLL2": "KMT2D",
    "MLL3": "KMT2C",
    "GPR56": "ADGRG1",
    "C10orf54": "VSIR",
    "VISTA": "VSIR",
    "H3F3A": "H3-3A",
    "HIST1H3B": "H3C2",
    "HIST1H4C": "H4C3",
    "KIAA0101": "PCLAF",
    "MLF1IP": "CENPU",
    "FAM64A": "PIMREG",
    "HN1": "JPT1",
    "HMP19": "NSG2",
    "CTGF": "CCN2",
    "CYR61": "CCN1",
    "WISP1": "CCN4",
    "LPPR1": "PLPPR1",
    "PPAP2B": "PLPP3",
    "C10orf10": "DEPP1",
    "SDPR": "CAVIN2",
    "PTRF": "CAVIN1",
    "GPR116": "ADGRF5",
    "ELTD1": "ADGRL4",
    "GPR124": "ADGRA2",
    "ODZ4": "TENM4",
    "FYB": "FYB1",
    "WHSC1": "NSD2",
    "PARK2": "PRKN",
    "BAI1": "ADGRB1",
    "IL8": "CXCL8",
    "PDL1": "CD274",
    "HER2": "ERBB2",
    "p53": "TP53",
}


def row(symbol, gene_id="", ncbi_id="", kind="protein_coding", previous="", aliases=""):
    return {
        "gene_id": gene_id,
        "ncbi_id": ncbi_id,
        "symbol": symbol,
        "gene_type": kind,
        "previous": previous,
        "aliases": aliases,
    }


@pytest.fixture
def four():
    """Hand-made names: OLD was A's, TWIN was B's and C's, NICK is an alias of B and C, A is also an alias of D."""
    return GeneNames(
        [
            row("A", "ENSG00000000001", "1", previous="OLD", aliases="AY"),
            row("B", "ENSG00000000002", "2", previous="TWIN", aliases="NICK|OLD"),
            row("C", "ENSG00000000003", "3", previous="TWIN", aliases="NICK"),
            row("D", "ENSG00000000004", "", "lncRNA", aliases="A|TWIN|DEE"),
        ]
    )


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_renamed_genes(old, new):
    assert gene_names().canonical([old])[0] == [new]


def test_the_table():
    """Sorted, without duplicates, of plausible size; every symbol is its own name, and every id leads to its symbol."""
    table = pd.read_csv(TABLE, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    assert table["symbol"].is_monotonic_increasing
    assert table["symbol"].is_unique
    names = gene_names()
    assert names.canonical(table["symbol"])[0] == table["symbol"].tolist()
    for column in ("gene_id", "ncbi_id"):
        has = table[table[column] != ""]
        assert has[column].is_unique
        assert names.canonical(["?"] * len(has), has[column].tolist())[0] == has["symbol"].tolist()
    assert 19_000 < len(names.protein_coding()) < 20_500
    assert names.protein_coding() == sorted(names.protein_coding())
    assert {"TP53", "EGFR", "IDH1", "MT-CO1", "GSTT1"} <= set(names.protein_coding())
    assert set(table["gene_type"]) == {"protein_coding", "lncRNA", "pseudogene", "other"}
    assert TABLE.stat().st_size < 1_500_000


def test_no_former_name_is_an_approved_symbol():
    names = gene_names()
    assert not names._by_former.keys() & names.gene_type.keys()


def test_previous_symbols_win_over_aliases(four):
    found, counts = four.canonical(["A", "OLD", "AY", "DEE"])
    assert found == ["A", "A", "A", "D"]
    assert counts == {"symbol": 1, "alias": 3}


def test_a_name_of_two_genes_is_none(four):
    found, counts = four.canonical(["TWIN", "NICK", "NOBODY"])
    assert found == [None, None, None]
    assert counts == {"ambiguous": 2, "unknown": 1}


def test_ids_come_first(four):
    found, counts = four.canonical(
        ["x", "C", "x", "B", "B"],
        ["ENSG00000000001.15", "ENSG00000000003.2_PAR_Y", 2, float("nan"), "B"],
    )
    assert found == ["A", "C", "B", "B", "B"]
    assert counts == {"id": 3, "symbol": 2}
    assert four.canonical(["ENSG00000000002.7"]) == (["B"], {"id": 1})
    assert four.canonical(["x"], [3.0])[0] == ["C"]


def test_a_gene_with_an_id_of_its_own_keeps_its_name(four):
    """A non-coding gene is not merged into the coding one whose former name it bears."""
    found, counts = four.canonical(["OLD", "B", "LINC1"], ["ENSG00000000009"] * 3, keep_unknown=True)
    assert found == ["OLD", "B", "LINC1"]
    assert counts == {"unknown": 2, "symbol": 1}
    assert four.canonical(["OLD"], ["ENSG00000000009"])[0] == [None]


def test_a_gdc_file_loses_no_gene():
    symbols = ["TSPAN6", "SEPT7", "HOTAIR", "Y_RNA", "AC012345.1"]
    ids = ["ENSG00000000003.15", "ENSG00000122545.21", "ENSG00000228630.5", "ENSG00000199990.1", "ENSG00000999999.1"]
    found, counts = gene_names().canonical(symbols, ids, keep_unknown=True)
    assert found == ["TSPAN6", "SEPTIN7", "HOTAIR", "Y_RNA", "AC012345.1"]
    assert counts == {"id": 2, "unknown": 3}


def test_ids_of_something_else_are_refused(four):
    with pytest.raises(InputError, match=r"2 gene ids are of other genes than their symbols \(1 is A, not B\)"):
        four.canonical(["B", "A", "C"], ["1", "2", "3"])
    with pytest.raises(ValueError, match="2 symbols but 1 gene ids"):
        four.canonical(["A", "B"], ["1"])


def test_spaces_do_not_matter_but_letters_do(four):
    assert four.canonical([" A ", "a", "1-Mar"])[0] == ["A", None, None]


def test_the_list_is_whole_and_loaded_once():
    gene_names.cache_clear()
    assert len(gene_names()) > 19_000
    assert gene_names() is genes.gene_names()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, csr_matrix])
def test_duplicates_are_summed(dtype, make):
    values = make(np.array([[1, 2, 4, 8, 16], [0, 3, 0, 5, 7]], dtype))
    summed, names = sum_duplicates(values, ["B", "A", "B", None, "C"])
    assert names == ["A", "B", "C"]
    assert summed.dtype == dtype
    assert issparse(summed) == issparse(values)
    assert (summed.toarray() if issparse(summed) else summed).tolist() == [[2, 5, 16], [3, 0, 7]]


def test_sums_equal_those_of_pandas():
    rng = np.random.default_rng(0)
    values = rng.poisson(3, (5, 40))
    names = rng.choice(list("QWERTZUIOP"), 40).tolist()
    summed, kept = sum_duplicates(values, names)
    expected = pd.DataFrame(values, columns=names).T.groupby(level=0).sum().T
    assert kept == expected.columns.tolist()
    assert (summed == expected.to_numpy()).all()


def test_what_does_not_add_is_refused():
    with pytest.raises(InputError, match="negative values"):
        sum_duplicates(np.array([[1.0, -0.5]]), ["A", "A"])
    with pytest.raises(ValueError, match="2 names"):
        sum_duplicates(np.ones((1, 3)), ["A", "B"])


def test_nothing_known_leaves_nothing():
    summed, names = sum_duplicates(np.ones((2, 2)), [None, None])
    assert summed.shape == (2, 0)
    assert names == []


def test_a_published_table_gets_canonical_columns_in_one_order(capsys):
    table = pd.DataFrame(
        {"case_id": ["C-1"], "TP53": [1.0], "MLL": [2.0], "LOC0": [3.0], "KMT2A": [4.0], "GPR56": [5.0]}
    )
    renamed = canonical_columns(table)
    assert renamed.columns.tolist() == ["case_id", "ADGRG1", "KMT2A", "LOC0", "TP53"]
    assert renamed.loc[0, "KMT2A"] == 4.0
    assert "MLL: left out, KMT2A has another column" in capsys.readouterr().out
    assert canonical_columns(table[table.columns[::-1]]).equals(renamed)


def test_suffixes_stay_and_decide_the_order():
    table = pd.DataFrame({"case_id": ["C-1"], "TP53_mut": [1], "MLL_cnv": [2], "EGFR_mut": [3]})
    assert canonical_columns(table, ("_cnv", "_mut")).columns.tolist() == [
        "case_id",
        "KMT2A_cnv",
        "EGFR_mut",
        "TP53_mut",
    ]

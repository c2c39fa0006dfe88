"""Panels: against scanpy and a dense variance; training donors alone decide; a cohort without them is refused."""

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest
import scanpy
from anndata import AnnData
from smoothing_examples import atlas, symbols

from histofuse.genomics.smoothing.panel import choose_panel, given_panel, match_panel
from histofuse.io import InputError

CELLS = atlas()


def log_cp10k(cells):
    rows = ~cells.held_out
    return np.log1p(cells.counts.toarray()[rows].astype(float) / cells.library[rows][:, None] * 1e4)


def test_variance_is_that_of_the_log_of_cp10k():
    panel = choose_panel(CELLS, CELLS.genes, size=20, flavour="variance")
    expected = log_cp10k(CELLS).var(axis=0)
    order = np.argsort(-expected)[:20]
    assert panel.columns.tolist() == ["gene", "score", "rank"]
    assert panel["gene"].tolist() == np.array(CELLS.genes)[order].tolist()
    assert panel["rank"].tolist() == list(range(1, 21))
    np.testing.assert_allclose(panel["score"], expected[order], rtol=1e-9)


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger"])
def test_scanpys_flavours_choose_what_scanpy_chooses(flavour):
    panel = choose_panel(CELLS, CELLS.genes, size=15, flavour=flavour)
    values = log_cp10k(CELLS)
    varies = values.std(axis=0) > 0  # genes without any count would widen scanpy's bins
    dense = AnnData(values[:, varies])
    theirs = scanpy.pp.highly_variable_genes(dense, flavor=flavour, n_top_genes=15, inplace=False)
    assert set(panel["gene"]) == set(np.array(CELLS.genes)[varies][theirs["highly_variable"].to_numpy()])


def test_seurat_v3_is_scanpys_or_a_clear_error():
    if find_spec("skmisc") is None:
        with pytest.raises(InputError, match=r"needs the package scikit-misc, .*or choose variance"):
            choose_panel(CELLS, CELLS.genes)
        return
    panel = choose_panel(CELLS, CELLS.genes, size=15)
    dense = AnnData(CELLS.counts.toarray()[~CELLS.held_out].astype(float))
    theirs = scanpy.pp.highly_variable_genes(dense, flavor="seurat_v3", n_top_genes=15, inplace=False)
    assert set(panel["gene"]) == set(np.array(CELLS.genes)[theirs["highly_variable"].to_numpy()])
    with pytest.raises(InputError, match="seurat_v3 needs counts"):
        choose_panel(dataclasses.replace(CELLS, counts=CELLS.counts * 1.5), CELLS.genes)


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger", "variance"])
def test_cells_of_held_out_donors_change_nothing(flavour):
    noise = CELLS.counts.toarray()
    random = np.random.default_rng(1)
    noise[CELLS.held_out] = random.poisson(50, (CELLS.held_out.sum(), noise.shape[1]))
    other = dataclasses.replace(
        CELLS,
        counts=type(CELLS.counts)(noise.astype(np.float32)),
        library=np.where(CELLS.held_out, 1e5, CELLS.library),
    )
    panel = choose_panel(CELLS, CELLS.genes, size=30, flavour=flavour)
    assert panel.equals(choose_panel(other, other.genes, size=30, flavour=flavour))


def test_only_allowed_genes_that_vary_are_chosen():
    counts = CELLS.counts.toarray()
    counts[:, 3] = 0
    flat = dataclasses.replace(CELLS, counts=type(CELLS.counts)(counts))
    panel = choose_panel(flat, symbols(40), canonical=symbols(10), flavour="variance")
    assert sorted(panel["gene"]) == [gene for gene in symbols(10) if gene != "G003"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_vocabulary": {"<pad>", "TP53"}}, r"none of the atlas' 80 genes \(G000, .* vocabulary of 2"),
        ({"canonical": {"TP53"}}, "and among those allowed"),
        ({"flavour": "seurat3"}, "flavour 'seurat3' is not one of variance, seurat"),
        ({"size": 0}, "size is 0"),
    ],
)
def test_an_impossible_panel_is_named(options, message):
    with pytest.raises(InputError, match=message):
        choose_panel(CELLS, **{"in_vocabulary": CELLS.genes, "flavour": "variance"} | options)


def test_a_panel_is_found_whatever_the_order():
    panel = ["C", "A", "X", "B", "D"]
    assert match_panel(panel, ["A", "B", "C", "D"]).tolist() == [2, 0, -1, 1, 3]
    assert match_panel(panel, ["A", "B", "C", "D"]).dtype == np.int64
    with pytest.raises(InputError, match="the panel has no gene"):
        match_panel([], ["A"])


def test_a_cohort_that_lacks_too_much_of_the_panel_is_refused():
    panel = symbols(100)
    with pytest.raises(
        InputError,
        match=r"40 of the panel's 100 genes \(40%; allowed are 20%\) are missing here: G000, G001, G002, G003, G004, …",
    ):
        match_panel(panel, panel[40:])
    assert (match_panel(panel, panel[20:]) < 0).sum() == 20
    assert (match_panel(panel, panel[40:], max_missing=0.4) < 0).sum() == 40


def test_a_panel_of_ones_own_is_checked(tmp_path):
    path = tmp_path / "panel.txt"
    cells = dataclasses.replace(CELLS, genes=["EGFR", "GFAP", "KMT2A", *CELLS.genes[3:]])
    path.write_text("# my genes\nMLL  # a former name\n\nEGFR\n")
    panel = given_panel(path, cells, {"EGFR", "KMT2A"})
    assert panel["gene"].tolist() == ["KMT2A", "EGFR"]
    assert panel["rank"].tolist() == [1, 2]
    for text, message in (
        ("", "lists no gene"),
        ("\n".join(symbols(1200)), "lists 1200 genes; a profile is shown by 1199 at most"),
        ("EGFR\nNO_GENE\n", "1 of 2 genes are known by no such name: NO_GENE"),
        ("EGFR\nGFAP\n", "1 of 2 genes are not in both the atlas and the vocabulary: GFAP"),
        ("KMT2A\nMLL\n", "1 of 2 genes are there twice: KMT2A"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            given_panel(path, cells, {"EGFR", "KMT2A"})
    with pytest.raises(InputError, match="cannot be read as a list of genes"):
        given_panel(tmp_path / "absent.txt", cells, {"EGFR"})

"""Atlases: what is read, what is held out, and every kind of unsuitable file by name."""

import gzip
import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from smoothing_examples import CLASSES, annotated, names_of, symbols

from histofuse.genomics.smoothing.atlas import read_atlas, read_classes
from histofuse.genomics.smoothing.mixup import draw_mixes, mixed_profiles
from histofuse.genomics.smoothing.panel import choose_panel
from histofuse.io import InputError

REAL = Path(
    "../shared/mirror/raw.githubusercontent.com/broadinstitute/infercnv/65e6bf554600c92e7d5c121e98247d9c3f888a0d/inst/extdata"
)
needs_real_cells = pytest.mark.skipif(not REAL.exists(), reason="the glioma cells are not in ../shared/mirror")


def write(tmp_path, content, name="cells.h5ad"):
    content.write_h5ad(tmp_path / name)
    return tmp_path / name


def read(path, **options):
    return read_atlas(path, **{"donor": "donor_id", "held_out": 0.2, "names": names_of(30)} | options)


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int32)])
def test_an_atlas_is_read_whatever_its_layout(tmp_path, make):
    content = annotated()
    expected = content.X.toarray()
    content.X = make(content.X)
    found = read(write(tmp_path, content))
    assert found.genes == symbols(30)
    assert found.classes == CLASSES
    assert found.counts.dtype == np.float32
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.counts.toarray(), expected)
    np.testing.assert_array_equal(found.library, expected.sum(axis=1))
    np.testing.assert_array_equal(np.array(CLASSES)[found.labels], content.obs["cell_type"])
    assert found.report["genes_found_by"] == {"symbol": 30}
    assert sum(part["train"] + part["held_out"] for part in found.report["classes"].values()) == 80


def test_whole_donors_are_held_out_and_every_class_has_some(tmp_path):
    path = write(tmp_path, annotated())
    found = read(path)
    held, trained = set(found.donors[found.held_out]), set(found.donors[~found.held_out])
    assert len(held) == 1
    assert not held & trained
    assert found.report["held_out_donors"] == sorted(held)
    assert read(path).held_out.tolist() == found.held_out.tolist()
    assert len({tuple(read(path, seed=seed).report["held_out_donors"]) for seed in range(8)}) > 1
    chosen = read(path, held_out=["D1", "D3"])
    assert set(chosen.donors[chosen.held_out]) == {"D1", "D3"}


def test_more_donors_are_held_out_where_classes_share_none(tmp_path):
    content = annotated(donors=3)
    kidney = content.obs["cell_type"] == "podocyte"
    content.obs["donor_id"] = np.where(kidney, "K", "B") + content.obs["donor_id"].astype(str)
    found = read(write(tmp_path, content), held_out=0.1)
    assert len(found.report["held_out_donors"]) == 2
    assert {name[0] for name in found.report["held_out_donors"]} == {"K", "B"}


def test_without_donors_cells_are_held_out_and_the_report_says_so(tmp_path):
    found = read(write(tmp_path, annotated()), donor=None)
    assert found.report["held_out_by"] == "cells: the atlas has no donors"
    assert [int(found.held_out[found.labels == k].sum()) for k in range(4)] == [4, 4, 4, 4]
    with pytest.raises(InputError, match="held_out names donors, but no column"):
        read(tmp_path / "cells.h5ad", donor=None, held_out=["D1"])


def test_names_become_canonical_and_the_library_keeps_every_gene(tmp_path):
    content = annotated()
    content.var_names = ["G005", "OLD0", *symbols(30)[2:5], "G005", *symbols(30)[6:29], "LINC99999"]
    dense = content.X.toarray()
    found = read(write(tmp_path, content))
    assert found.report["genes_found_by"] == {"alias": 1, "symbol": 28, "unknown": 1}
    assert found.genes == ["G000", *symbols(30)[2:29]]
    np.testing.assert_array_equal(found.counts[:, 0].toarray().ravel(), dense[:, 1])
    np.testing.assert_array_equal(found.counts[:, found.genes.index("G005")].toarray().ravel(), dense[:, [0, 5]].sum(1))
    np.testing.assert_array_equal(found.library, dense.sum(axis=1))


def test_ensembl_ids_come_first_and_symbols_may_be_a_column(tmp_path):
    content = annotated()
    content.var["feature_name"] = ["something", *symbols(30)[1:]]
    content.var_names = ["ENSG00000000001.7", *(f"ENSG9{number:010d}" for number in range(29))]
    assert read(write(tmp_path, content)).report["genes_found_by"] == {"id": 1, "symbol": 29}


def test_ids_that_contradict_the_symbols_are_named_with_the_file(tmp_path):
    content = annotated(genes=3)
    content.var_names = ["TP53", "EGFR", "PTEN"]
    content.var["gene_id"] = ["ENSG00000146648", "ENSG00000171862", "ENSG00000141510"]
    with pytest.raises(InputError, match=r"cells\.h5ad: .*TP53"):
        read(write(tmp_path, content), names=None)
    content.var_names = content.var.pop("gene_id")
    assert read(write(tmp_path, content), names=None).genes == ["EGFR", "PTEN", "TP53"]


def test_layers_and_raw_are_found(tmp_path):
    content = annotated()
    counts = content.X.copy()
    content.raw = content.copy()
    content.layers["counts"] = counts * 2
    content.X = counts.log1p()
    path = write(tmp_path, content)
    np.testing.assert_array_equal(read(path, layer="raw").counts.toarray(), counts.toarray())
    np.testing.assert_array_equal(read(path, layer="counts").counts.toarray(), counts.toarray() * 2)
    with pytest.raises(InputError, match=r"cells\.h5ad, X: the values look log-transformed .*name the layer"):
        read(path)
    with pytest.raises(InputError, match="there is no layers/umi; layers: counts, raw"):
        read(path, layer="umi")


def test_classes_gather_labels_and_leave_others_out(tmp_path):
    table = tmp_path / "classes.tsv"
    table.write_text("class\tcell_type\nglia\tastrocyte\nglia\tmicroglia\nnerve\tneuron\n")
    found = read(write(tmp_path, annotated()), classes=table)
    assert found.classes == ["glia", "nerve"]
    assert found.report["cells_without_class"] == {"podocyte": 20}
    assert len(found.labels) == 60
    table.write_text("class\tcell_type\tlabel\nglia\tastrocyte\ta\nnerve\tneuron\ta\n")
    with pytest.raises(InputError, match=r"classes\.tsv: a is both glia and nerve"):
        read_classes(table)
    table.write_text("class\tname\nglia\tastrocyte\n")
    with pytest.raises(InputError, match="the columns are class, name; needed are class and one of label"):
        read_classes(table)
    table.write_text("class\tlabel\n\tastrocyte\n")
    with pytest.raises(InputError, match="line 2 has no class"):
        read_classes(table)


def test_cells_without_reads_or_label_are_left_out_and_counted(tmp_path):
    content = annotated()
    dense = content.X.toarray()
    dense[3] = 0
    content.X = sp.csr_matrix(dense)
    content.obs.loc["C7", "cell_type"] = None
    report = read(write(tmp_path, content)).report
    assert (report["cells"], report["empty_cells"], report["cells_without_class"]) == (78, 1, {"None": 1})


def value(amount):
    def change(content):
        content.X[4, int(content.X[4].indices[0])] = amount

    return change


def set_obs(column, amount):
    def change(content):
        content.obs[column] = amount

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (value(-1.5), {}, r"X: cell C4, gene G\d+: the value is -1\.5, not a number ≥ 0; scaled values"),
        (value(np.nan), {}, r"cell C4, gene G\d+: the value is nan"),
        (value(np.inf), {}, "the value is inf"),
        (value(700.5), {}, r"values above 0 are not whole numbers, so they are no counts; .*linear: true"),
        (None, {"label": "type"}, "obs has no column type; it has cell_type, donor_id"),
        (None, {"donor": "patient"}, "obs has no column patient; it has cell_type, donor_id"),
        (set_obs("cell_type", "neuron"), {}, r"cell_type has one class only \(neuron\)"),
        (set_obs("cell_type", np.nan), {}, "no cell is left; 80 are in the file, 0 have a cell_type"),
        (set_obs("donor_id", np.nan), {}, "80 cells have no donor_id, the first is C0"),
        (set_obs("donor_id", "D0"), {}, "astrocyte, microglia, neuron, podocyte: cells of one donor only"),
        (None, {"held_out": ["D1", "D9"]}, "held_out names D9, but no cell is of such a donor"),
        (None, {"held_out": ["D0", "D1", "D2", "D3", "D4"]}, "class astrocyte has 0 cells for training and 20 held"),
        (None, {"held_out": 1.5}, "held_out is 1.5; give a share"),
        (None, {"names": names_of(1), "genes": ["X1", "X2", "X3"]}, r"none of 30 genes is known \(the first: X0, X1"),
    ],
)
def test_unsuitable_content_is_named(tmp_path, change, options, message):
    content = annotated()
    if change:
        change(content)
    if options.pop("genes", None):
        content.var_names = [f"X{number}" for number in range(30)]
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=message):
        read(path, **options)


def test_linear_values_are_taken_where_they_are_announced(tmp_path):
    content = annotated()
    content.X = content.X * 1.37
    path = write(tmp_path, content)
    np.testing.assert_array_equal(read(path, linear=True).counts.toarray(), content.X.toarray())
    content.X = content.X.log1p()
    with pytest.raises(InputError, match="look log-transformed"):
        read(write(tmp_path, content), linear=True)


def test_a_class_of_one_cell_cannot_be_split(tmp_path):
    content = annotated()
    content.obs["cell_type"] = ["rare", *content.obs["cell_type"].astype(str)[1:]]
    with pytest.raises(InputError, match="class rare has 0 cells for training and 1 held out"):
        read(write(tmp_path, content), donor=None)


@pytest.mark.filterwarnings("ignore:Element")  # anndata, of files it did not write
def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "cells.h5ad"
    with pytest.raises(InputError, match="there is no such file"):
        read(path)
    path.write_text("<html>")
    with pytest.raises(InputError, match=r"cells\.h5ad: cannot be read as an \.h5ad file \(OSError"):
        read(path)
    write(tmp_path, annotated())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # a download that broke off
    with pytest.raises(InputError, match="cannot be read as an"):
        read(path)
    with h5py.File(path, "w") as file:
        file["X"] = np.ones((3, 2))
    with pytest.raises(InputError, match=r"cannot be read as an \.h5ad file"):
        read(path)
    with h5py.File(path, "w") as file:
        file["X"], file["obs"], file["var"] = np.ones((3, 2)), np.arange(3), np.arange(2)
    with pytest.raises(InputError, match="obs is not a table"):
        read(path)


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trap_was_sprung"),))


@pytest.mark.filterwarnings("ignore:Element")
def test_a_hidden_pickle_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, annotated())
    bytes_of_it = np.void(pickle.dumps(Trap()))
    with h5py.File(path, "r+") as file:
        file["uns"].create_dataset("trap", data=bytes_of_it)
        file["obs"].attrs["trap"] = bytes_of_it
    assert len(read(path).labels) == 80
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", data=bytes_of_it)
    with pytest.raises(InputError, match=r"X has the shape|cannot be read|not numbers"):
        read(path)
    assert not Path("trap_was_sprung").exists()


@needs_real_cells
def test_real_glioma_cells(tmp_path):
    with gzip.open(REAL / "oligodendroglioma_expression_downsampled.counts.matrix.gz", "rt") as file:
        table = pd.read_csv(file, sep="\t")
    labels = pd.read_csv(REAL / "oligodendroglioma_annotations_downsampled.txt", sep="\t", header=None, index_col=0)[1]
    obs = pd.DataFrame({"type": labels.reindex(table.columns).str.split("_").str[0]}, index=table.columns)
    obs["donor"] = obs.index.str.split("_").str[0].str.upper()
    path = write(tmp_path, AnnData(sp.csr_matrix(table.T.to_numpy(np.float32)), obs, pd.DataFrame(index=table.index)))
    with pytest.raises(InputError, match="100% of the values above 0 are not whole numbers"):
        read_atlas(path, "type", held_out=0.2)
    found = read_atlas(path, "type", linear=True, held_out=0.2)
    assert found.report["cells"] == 184
    assert found.report["genes_in_file"] == 10_338
    assert found.report["genes_found_by"]["symbol"] > 8_000
    assert found.report["genes"] > 9_000
    with pytest.raises(InputError, match="seurat_v3 needs"):  # scikit-misc, or counts
        choose_panel(found, found.genes)
    panel = choose_panel(found, found.genes, flavour="seurat")["gene"].tolist()
    assert len(panel) == 1199
    assert {"GFAP", "MBP", "C1QB"} & set(panel)
    mixes = draw_mixes(found, 64)
    profiles = mixed_profiles(found, mixes, panel)
    assert profiles.min() >= 0
    assert (profiles.sum(axis=1) > 0).all()
    assert profiles.sum(axis=1).max() < 1e4
    by_donor = read_atlas(path, "type", "donor", linear=True, held_out=0.3)
    assert not set(by_donor.donors[by_donor.held_out]) & set(by_donor.donors[~by_donor.held_out])


def test_real_blood_cells(tmp_path):
    scanpy = pytest.importorskip("scanpy")
    cells = scanpy.datasets.pbmc68k_reduced()
    del cells.uns
    with pytest.raises(InputError, match=r"X: cell .*: the value is -.*scaled values"):
        read_atlas(write(tmp_path, cells), "bulk_labels")
    path = tmp_path / "cells.h5ad"
    with pytest.raises(InputError, match="layer raw: the values look log-transformed"):
        read_atlas(path, "bulk_labels", layer="raw", linear=True)
    linear = cells.raw.to_adata()
    linear.X = linear.X.expm1()
    with pytest.raises(InputError, match="not whole numbers, so they are no counts"):
        read_atlas(write(tmp_path, linear), "bulk_labels")
    found = read_atlas(path, "bulk_labels", linear=True)
    assert len(found.classes) == 10
    assert found.report["genes"] > 650
    assert len(choose_panel(found, found.genes, size=200, flavour="cell_ranger")) == 200

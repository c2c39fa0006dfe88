"""Real cells take the whole road with a small checkpoint: file, panel, mixtures, embeddings, smoothing and walks."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scgpt_examples import make_checkpoint

from histofuse.genomics.embedding import embed_profiles, token_of_gene
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.smoothing.atlas import read_atlas
from histofuse.genomics.smoothing.interpolation import distance_table, paths
from histofuse.genomics.smoothing.mixup import draw_mixes, mixed_profiles
from histofuse.genomics.smoothing.mlp import fit, held_out_scores, smooth
from histofuse.genomics.smoothing.panel import choose_panel

REAL = Path(__file__).parents[3] / (
    "../shared/mirror/raw.githubusercontent.com/broadinstitute/infercnv/65e6bf554600c92e7d5c121e98247d9c3f888a0d/inst/extdata"
)


def glioma():
    """184 cells × 10,338 genes of oligodendrogliomas, linear values."""
    if not REAL.exists():
        pytest.skip("needs ../shared beside the repository")
    with gzip.open(REAL / "oligodendroglioma_expression_downsampled.counts.matrix.gz", "rt") as file:
        table = pd.read_csv(file, sep="\t")
    labels = pd.read_csv(REAL / "oligodendroglioma_annotations_downsampled.txt", sep="\t", header=None, index_col=0)[1]
    obs = pd.DataFrame({"type": labels.reindex(table.columns).str.split("_").str[0]}, index=table.columns)
    return AnnData(sp.csr_matrix(table.T.to_numpy(np.float32)), obs, pd.DataFrame(index=table.index))


def blood():
    """scanpy's 700 cells × 765 genes of blood; they come log-scaled."""
    scanpy = pytest.importorskip("scanpy")
    cells = scanpy.datasets.pbmc68k_reduced()
    linear = cells.raw.to_adata()
    return AnnData(linear.X.expm1(), cells.obs[["bulk_labels"]].rename(columns={"bulk_labels": "type"}), linear.var)


@pytest.mark.filterwarnings("ignore:Element")
@pytest.mark.parametrize(("cells", "classes"), [(glioma, 3), (blood, 10)])
def test_real_cells_take_the_whole_road(tmp_path, cells, classes):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    atlas = read_atlas(tmp_path / "cells.h5ad", "type", linear=True, held_out=0.3)
    checkpoint = load_checkpoint(make_checkpoint(tmp_path / "scgpt", symbols=[*atlas.genes, "NOT_A_GENE"]))
    panel = choose_panel(atlas, token_of_gene(checkpoint.vocabulary), size=300, flavour="seurat")["gene"].tolist()

    def bank(n, part, mixing):
        mixes = draw_mixes(atlas, n, part, mixing=mixing)
        return embed_profiles(checkpoint, mixed_profiles(atlas, mixes, panel), panel, {}), mixes.target

    embeddings, targets = bank(400, "train", True)
    assert embeddings.shape == (400, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    weights, _ = fit(embeddings, targets, passes=20, standardise=True)
    scores = held_out_scores(weights, bank(200, "held_out", True), bank(200, "held_out", False), targets)
    print({name: value for name, value in scores.items() if name != "confusion"})
    assert len(scores["confusion"]) == len(atlas.classes) == classes
    # An untrained checkpoint: it tells real cells apart because their profiles differ, not because it knows them.
    assert scores["mean_absolute_error"] < scores["chance_mean_absolute_error"]
    assert scores["pearson"] > 0.2

    walks = paths(atlas, steps=5, cells_per_pair=4)
    raw = embed_profiles(checkpoint, mixed_profiles(atlas, walks.mixes, panel), panel, {})
    table = distance_table(walks, {"raw": raw, "smoothed": smooth(weights, raw)})
    assert np.isfinite(table["median"]).all()
    ends = table.groupby("weight")["median"].agg(["min", "max"])
    np.testing.assert_allclose(ends.loc[[0.0, 1.0]], [[0, 0], [1, 1]], atol=1e-6)

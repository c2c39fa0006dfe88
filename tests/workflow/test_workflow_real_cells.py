"""The workflow's road from an atlas file to a smoothed space, on real glioma cells."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from workflow_examples import NO_SHARED, SHARED, Checkout, tiny_config

GLIOMA = SHARED / "mirror/raw.githubusercontent.com/broadinstitute/infercnv/65e6bf554600c92e7d5c121e98247d9c3f888a0d"


def glioma_cells():
    """184 cells × 10,338 genes, TPM-like; the tumour that a cell is of is the beginning of its name."""
    folder = GLIOMA / "inst/extdata"
    values = pd.read_csv(folder / "oligodendroglioma_expression_downsampled.counts.matrix.gz", sep="\t", index_col=0).T
    labels = pd.read_csv(
        folder / "oligodendroglioma_annotations_downsampled.txt", sep="\t", header=None, index_col=0
    ).loc[values.index, 1]
    kinds = labels.where(~labels.str.startswith("malignant"), "malignant")
    obs = pd.DataFrame({"cell_type": kinds, "donor_id": values.index.str.partition("_").get_level_values(0)})
    return anndata.AnnData(values.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=values.columns))


@pytest.mark.skipif(not GLIOMA.exists(), reason=NO_SHARED)
def test_real_cells_become_a_panel_a_bank_and_a_smoothed_space(tmp_path):
    checkout = Checkout(tmp_path)
    glioma_cells().write_h5ad(checkout / "cells.h5ad")
    config = tiny_config()
    config["atlases"]["real_cells"] = {"source": "file", "file": "cells.h5ad", "linear": True, "held_out": 0.25}
    config["embeddings"]["scgpt"] |= {"atlas": "real_cells", "panel": {"size": 200, "flavour": "seurat"}}
    name = checkout.write_config(config, "real_cells.yaml")

    figure = "results/figures/embeddings/scgpt/interpolation.svg"
    checkout.snakemake("results/embeddings/scgpt/smoothings.csv", figure, "--configfile", name)

    report = json.loads((checkout / "results/embeddings/scgpt/atlas.json").read_text())
    assert list(report["classes"]) == ["Microglia/Macrophage", "Oligodendrocytes (non-malignant)", "malignant"]
    assert report["genes"] > 0.85 * report["genes_in_file"]
    assert report["held_out_donors"]
    assert 100 <= len(pd.read_csv(checkout / "results/embeddings/scgpt/panel.tsv", sep="\t")) <= 200
    scores = pd.read_csv(checkout / "results/embeddings/scgpt/smoothings.csv").set_index("smoothing")
    assert scores.index.tolist() == ["mixup", "embedding_mixup", "chance"]
    assert scores["mean_absolute_error"].between(0, 1).all()
    assert (checkout / figure).read_text().rstrip().endswith("</svg>")

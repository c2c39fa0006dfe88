"""The census query: a consistent table, a filter that says what it should, and an atlas that the reader takes."""

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from histofuse.genomics.smoothing.atlas import read_atlas, read_classes
from histofuse.io import InputError

ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("census_atlas", ROOT / "tools" / "census_atlas.py")
census_atlas = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(census_atlas)
TABLE = census_atlas.cell_types()
PART_OF_TISSUE = {"brain", "kidney", "blood", "bone marrow", "spleen", "lymph node", "lung", "heart"}


def census(cells_per_type=300, donors=6, seed=0):
    """obs of a census: every type in each of its tissues, and cells that must not be taken."""
    rows = [
        (kind, term, f"D{number % donors}", tissue)
        for _, kind, term, tissues in TABLE.itertuples(index=False)
        for tissue in tissues.split("|")
        for number in range(cells_per_type)
    ]
    obs = pd.DataFrame(rows, columns=["cell_type", "cell_type_ontology_term_id", "donor_id", "tissue_general"])
    obs = obs.assign(dataset_id="one", assay="10x 3' v3", disease="normal", is_primary_data=True)
    strange = pd.concat(
        [
            obs[:50].assign(disease="glioblastoma"),
            obs[:50].assign(is_primary_data=False),
            obs[:50].assign(assay="Smart-seq2"),
            obs[:50].assign(tissue_general="lung"),  # neurons
            obs[:50].assign(cell_type_ontology_term_id="CL:0001064"),
        ]
    )
    obs = pd.concat([obs.assign(wanted=True), strange.assign(wanted=False)], ignore_index=True)
    obs = obs.sample(frac=1, random_state=seed).reset_index(drop=True)
    return obs.assign(soma_joinid=np.arange(len(obs)) * 3)


def test_the_table_has_seventeen_classes_and_every_type_once():
    assert TABLE.columns.tolist() == ["class", "cell_type", "cell_type_ontology_term_id", "tissue_general"]
    assert TABLE["class"].nunique() == 17
    assert TABLE["cell_type"].is_unique
    assert TABLE["cell_type_ontology_term_id"].is_unique
    assert TABLE["cell_type_ontology_term_id"].str.fullmatch(r"CL:\d{7}").all()
    assert TABLE["class"].str.fullmatch(r"[a-z0-9_]+").all()
    assert TABLE.groupby("class")["tissue_general"].nunique().max() == 1
    assert set(TABLE["tissue_general"].str.split("|").explode()) == PART_OF_TISSUE
    assert (TABLE.apply(lambda column: column.str.strip()) == TABLE).all(axis=None)
    assert set(read_classes(census_atlas.TABLE).values()) == set(TABLE["class"])


def test_the_filter_takes_what_it_should():
    text = census_atlas.obs_filter(TABLE)
    assert text.startswith('is_primary_data == True and disease == "normal" and assay in ["10x 3\' v2", ')
    assert '(tissue_general in ["kidney"] and cell_type_ontology_term_id in ["CL:0000653", ' in text
    obs = census(3)
    assert obs.query(text)["wanted"].all()  # pandas reads the same language
    assert len(obs.query(text)) == obs["wanted"].sum()


def test_classes_and_donors_are_drawn_evenly():
    obs = census()
    obs = obs[obs["wanted"] & ~((obs["donor_id"] == "D5") & (obs["soma_joinid"] % 2 == 0))]
    table = TABLE.groupby("class").filter(lambda rows: len(rows) * len(rows["tissue_general"].iloc[0].split("|")) > 3)
    drawn = census_atlas.draw_cells(obs, table, per_class=120)
    chosen = obs.set_index("soma_joinid").loc[drawn]
    of_class = chosen["cell_type_ontology_term_id"].map(table.set_index("cell_type_ontology_term_id")["class"])
    assert (of_class.value_counts() == 120).all()
    assert (chosen.groupby([of_class.to_numpy(), "donor_id"]).size() == 20).all()
    np.testing.assert_array_equal(drawn, census_atlas.draw_cells(obs.sample(frac=1), table, per_class=120))
    with pytest.raises(InputError, match="class microglia has 600 cells of 6 donors; 1000 and 2 are needed"):
        census_atlas.draw_cells(
            obs=census()[lambda frame: frame["wanted"]], table=TABLE[TABLE["class"] == "microglia"], per_class=9
        )


def test_what_is_fetched_is_an_atlas(tmp_path, monkeypatch):
    obs = census(1000)
    random = np.random.default_rng(0)
    asked = {}

    def get_anndata(_, organism, *, X_name, obs_coords, obs_column_names, var_column_names):
        asked.update(organism=organism, layer=X_name)
        rows = obs.set_index("soma_joinid", drop=False).loc[obs_coords, obs_column_names].reset_index(drop=True)
        rows.index = rows.index.astype(str)
        genes = pd.DataFrame({"feature_id": ["ENSG00000141510", "ENSG00000146648"], "feature_name": ["TP53", "EGFR"]})
        genes.index = ["0", "1"]
        return AnnData(csr_matrix(random.poisson(3, (len(rows), 2)).astype(np.float32)), rows, genes[var_column_names])

    module = SimpleNamespace(
        open_soma=lambda census_version: contextlib.nullcontext(asked.update(release=census_version)),
        get_obs=lambda _, organism, value_filter, column_names: obs.query(value_filter)[column_names],
        get_anndata=get_anndata,
    )
    monkeypatch.setitem(sys.modules, "cellxgene_census", module)
    census_atlas.fetch(tmp_path / "cells.h5ad", per_class=40)
    assert asked == {"organism": "homo_sapiens", "layer": "raw", "release": census_atlas.RELEASE}
    found = read_atlas(
        tmp_path / "cells.h5ad", "cell_type_ontology_term_id", "donor_id", held_out=0.2, classes=census_atlas.TABLE
    )
    assert found.genes == ["EGFR", "TP53"]
    assert found.classes == sorted(TABLE["class"].unique())
    assert found.report["genes_found_by"] == {"id": 2}
    assert min(part["train"] for part in found.report["classes"].values()) > 30

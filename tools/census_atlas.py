"""Fetch a single-cell atlas of 17 cell types from the CELLxGENE census and write it as docs/atlas.md describes.

pip install cellxgene-census                              # not part of the environment
PYTHONPATH=workflow/scripts python tools/census_atlas.py cells.h5ad

Which cell types make which class, and from which tissues, is config/census_cell_types.tsv. The query was written from
the census' documentation and has not been run where this project is tested: there the census cannot be reached.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, atomic, read_table

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "config" / "census_cell_types.tsv"
RELEASE = "2025-11-08"  # a release of long-term support, so that the same cells come tomorrow
ORGANISM = "homo_sapiens"
ASSAYS = ("10x 3' v2", "10x 3' v3", "10x 5' v1", "10x 5' v2")  # counts that do not grow with a gene's length
FEWEST = 1000  # cells of a class
OBS_COLUMNS = (
    "soma_joinid",
    "cell_type",
    "cell_type_ontology_term_id",
    "donor_id",
    "dataset_id",
    "tissue_general",
    "assay",
)


def cell_types(path: str | Path = TABLE) -> pd.DataFrame:
    """The table `class, cell_type, cell_type_ontology_term_id, tissue_general`; several tissues are joined by |."""
    return read_table(path, dtype=str, keep_default_na=False)


def obs_filter(table: pd.DataFrame) -> str:
    """The census' value filter: primary data of normal cells, of these assays, and of the types in their tissues.

    Types are asked for by id: their names change between releases of the Cell Ontology.
    """
    wanted = [
        f"(tissue_general in {json.dumps(tissues.split('|'))} and cell_type_ontology_term_id in {json.dumps(ids)})"
        for tissues, ids in table.groupby("tissue_general", sort=True)["cell_type_ontology_term_id"].agg(sorted).items()
    ]
    assays = json.dumps(list(ASSAYS))
    return f'is_primary_data == True and disease == "normal" and assay in {assays} and ({" or ".join(wanted)})'


def draw_cells(obs: pd.DataFrame, table: pd.DataFrame, per_class: int, seed: int = 0) -> np.ndarray:
    """The soma_joinid of at most `per_class` cells of every class, sorted.

    Every donor of a class gives one cell, then a second one, and so on, so that few donors do not make up a class.
    Raises InputError where a class has fewer than FEWEST cells or only one donor.
    """
    classes = table.set_index("cell_type_ontology_term_id")["class"]
    cells = pd.DataFrame(
        {
            "id": obs["soma_joinid"].to_numpy(np.int64),
            "class": obs["cell_type_ontology_term_id"].astype(str).map(classes).to_numpy(),
            "donor": obs["donor_id"].astype(str).to_numpy(),
        }
    )
    cells = cells.sort_values("id").sample(frac=1, random_state=seed)
    cells["turn"] = cells.groupby(["class", "donor"]).cumcount()
    drawn = []
    for name in sorted(table["class"].unique()):
        of_class = cells[cells["class"] == name]
        if len(of_class) < FEWEST or of_class["donor"].nunique() < 2:
            raise InputError(
                f"{TABLE.name}: class {name} has {len(of_class)} cells of {of_class['donor'].nunique()} donors; "
                f"{FEWEST} and 2 are needed: add cell types or tissues"
            )
        drawn.append(of_class.sort_values("turn", kind="stable").head(per_class)["id"])
    return np.sort(np.concatenate(drawn))


def fetch(output: str | Path, per_class: int = 3000, seed: int = 0, release: str = RELEASE) -> None:
    """Write the drawn cells: raw counts as X, Ensembl ids as var_names, var feature_name, obs OBS_COLUMNS.

    A donor_id is unique within its dataset only. Cells of donors of the same name are kept or held out together,
    which is the safe side: one donor may be in several datasets.
    """
    import cellxgene_census

    table = cell_types()
    with cellxgene_census.open_soma(census_version=release) as census:
        obs = cellxgene_census.get_obs(census, ORGANISM, value_filter=obs_filter(table), column_names=list(OBS_COLUMNS))
        cells = cellxgene_census.get_anndata(
            census,
            ORGANISM,
            X_name="raw",
            obs_coords=draw_cells(obs, table, per_class, seed).tolist(),
            obs_column_names=list(OBS_COLUMNS),
            var_column_names=["feature_id", "feature_name"],
        )
    cells.var_names = cells.var["feature_id"].astype(str)
    cells.var_names.name = None
    cells.obs_names = cells.obs["soma_joinid"].astype(str)
    cells.obs_names.name = None
    with atomic(output) as temporary:
        cells.write_h5ad(temporary, compression="gzip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="the .h5ad file to write")
    parser.add_argument("--cells-per-class", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--census-version", default=RELEASE)
    arguments = parser.parse_args()
    fetch(arguments.output, arguments.cells_per_class, arguments.seed, arguments.census_version)


if __name__ == "__main__":
    main()

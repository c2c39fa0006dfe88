"""A simulated atlas of single cells: raw counts of 17 types from several donors, as an .h5ad file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from histofuse.io import atomic
from histofuse.sources.simulated.cell_types import TYPES, marker_effects
from histofuse.sources.simulated.expression import base_and_loadings
from histofuse.sources.simulated.genes import gene_catalogue
from histofuse.sources.simulated.settings import AtlasSettings

DONOR_EFFECT = 0.3  # sd of a donor's shift of a gene, log2, in all of its cells alike
LIBRARY = (1_000, 20_000)  # counts of a cell over the genes of the file, log-uniform, before drop-out
DISPERSION = 0.3  # variance = mean + dispersion · mean²
DROP_OUT = 0.15  # share of molecules' genes lost whole from a cell, whatever their abundance


def simulate_atlas(settings: Mapping, path: str | Path) -> None:
    """Write the atlas that `settings` (see `AtlasSettings`) asks for. The same settings give the same bytes.

    X holds raw counts, CSR float32 [cells, genes]; obs `cell_type` and `donor_id`; var `gene_id` (Ensembl, without
    version) and `feature_name`, which is also the name of the row. Raises InputError for bad settings.
    """
    import anndata

    chosen = AtlasSettings.parse(settings)
    genes = atlas_genes(chosen.genes)
    counts, cells = draw_cells(chosen, genes)
    var = pd.DataFrame(
        {
            "gene_id": genes["gene_id"].str.split(".").str[0].to_numpy(dtype=str),
            "feature_name": genes["gene_name"].to_numpy(dtype=str),
        },
        index=genes["gene_name"].to_numpy(dtype=str),
    )
    with atomic(path) as temporary:
        anndata.AnnData(X=csr_matrix(counts, dtype=np.float32), obs=cells, var=var).write_h5ad(
            temporary, compression="gzip"
        )
    shown = f"median {int(np.median(counts.sum(1)))} counts and {int(np.median((counts > 0).sum(1)))} genes a cell"
    print(f"{len(cells)} cells × {len(genes)} genes, {len(TYPES)} types, {chosen.donors} donors; {shown}")


def atlas_genes(n_genes: int) -> pd.DataFrame:
    """The first genes of the catalogue, of a symbol that occurs twice the first."""
    genes = gene_catalogue(n_genes)
    return genes.assign(row=np.arange(len(genes))).drop_duplicates("gene_name", ignore_index=True)


def draw_cells(settings: AtlasSettings, genes: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Counts [cells, genes] int64 and the cells' `cell_type` and `donor_id`, in a random order.

    A gene is as abundant as in the bulk cohorts, changed by the type (`marker_effects`) and the donor.
    """
    rng = np.random.default_rng([settings.seed, len(TYPES)])
    log2 = base_and_loadings(settings.genes)[0][genes["row"]] + marker_effects(genes)
    donors = DONOR_EFFECT * rng.standard_normal((settings.donors, len(genes)))

    kind = np.repeat(np.arange(len(TYPES)), settings.cells_per_type)
    donor = np.tile(np.arange(settings.cells_per_type) % settings.donors, len(TYPES))
    order = rng.permutation(len(kind))
    kind, donor = kind[order], donor[order]

    share = 2.0 ** (log2[kind] + donors[donor])
    share /= share.sum(axis=1, keepdims=True)
    library = np.exp(rng.uniform(*np.log(LIBRARY), len(kind)))
    rate = library[:, None] * share * rng.gamma(1 / DISPERSION, DISPERSION, share.shape)
    counts = rng.poisson(rate) * (rng.random(share.shape) >= DROP_OUT)
    names = [f"cell{number:06d}" for number in range(1, len(kind) + 1)]
    cells = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(kind, list(TYPES)),
            "donor_id": pd.Categorical.from_codes(donor, [f"donor{k + 1:02d}" for k in range(settings.donors)]),
        },
        index=names,
    )
    return counts, cells

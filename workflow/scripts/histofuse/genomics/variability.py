"""scanpy's rankings of highly variable genes, for cases and for cells."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from histofuse.io import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FLAVOURS = ("variance", "seurat", "cell_ranger", "seurat_v3")  # the first needs no scanpy


def scanpy_scores(values: np.ndarray | csr_matrix, flavour: str, rows: str) -> np.ndarray:
    """Score of every column of `values` [row, gene] by a flavour of scanpy's `highly_variable_genes`.

    `values`: whole counts for `seurat_v3` (which scores by standardised variance), else natural logarithms of 1 + a
    linear quantity (normalised dispersions). `rows` says in messages what a row is. NaN where scanpy gives no score.
    Raises InputError where scanpy cannot rank them, or lacks scikit-misc for `seurat_v3`.
    """
    if flavour == "seurat_v3" and find_spec("skmisc") is None:
        raise InputError(
            "flavour seurat_v3 needs the package scikit-misc, which is not installed: "
            "pip install scikit-misc, or choose variance, seurat or cell_ranger"
        )
    import scanpy
    from anndata import AnnData

    matrix = AnnData(values)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about bins of one gene and about names: not for a log
            table = scanpy.pp.highly_variable_genes(matrix, flavor=flavour, n_top_genes=matrix.n_vars, inplace=False)
    except ValueError as error:
        raise InputError(
            f"scanpy's flavour {flavour} cannot rank {matrix.n_vars} genes over {matrix.n_obs} {rows} ({error}); "
            "choose variance"
        ) from error
    return table["variances_norm" if flavour == "seurat_v3" else "dispersions_norm"].to_numpy(np.float64)

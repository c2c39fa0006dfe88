"""The fixed genes that every profile is shown by: highly variable in the atlas, chosen without looking at any cohort's
outcomes, the same for all cases and folds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.genomics.genes import gene_names
from histofuse.genomics.smoothing.atlas import Atlas
from histofuse.genomics.smoothing.mixup import CP10K
from histofuse.genomics.variability import FLAVOURS, scanpy_scores
from histofuse.io import InputError

LARGEST = 1199  # genes that scGPT reads beside the class token


def choose_panel(
    atlas: Atlas,
    in_vocabulary: Collection[str],
    canonical: Collection[str] | None = None,
    size: int = LARGEST,
    flavour: str = "seurat_v3",
) -> pd.DataFrame:
    """The most variable genes of the atlas' training cells, at most `size` of them.

    Args:
        in_vocabulary: genes that the encoder knows; only these are looked at.
        canonical: genes that may be chosen, for instance those that every cohort has; None for all.
        flavour: a flavour of scanpy's `highly_variable_genes` (`seurat_v3` on counts, `seurat` and `cell_ranger` on
            ln(1 + CP10k)), or `variance` of ln(1 + CP10k). The library size is that of all genes.

    Returns a frame `gene, score, rank`, rank 1 first; equal scores go by name. Genes that do not vary, and those that
    scanpy gives no score, are never chosen. Raises InputError where nothing can be chosen.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"panel: flavour {flavour!r} is not one of {', '.join(FLAVOURS)}")
    if size < 1:
        raise InputError(f"panel: size is {size}")
    allowed = set(in_vocabulary) if canonical is None else set(in_vocabulary) & set(canonical)
    columns = np.array([k for k, gene in enumerate(atlas.genes) if gene in allowed], int)
    if not len(columns):
        raise InputError(
            f"panel: none of the atlas' {len(atlas.genes)} genes ({', '.join(atlas.genes[:3])}, …) is in the encoder's "
            f"vocabulary of {len(in_vocabulary)}{'' if canonical is None else ' and among those allowed'}"
        )
    cells = atlas.cells("train")
    counts = atlas.counts[cells][:, columns].astype(np.float64)
    log_values = counts.multiply(CP10K / atlas.library[cells][:, None]).tocsr().log1p()
    mean = np.asarray(log_values.mean(axis=0)).ravel()
    variance = np.asarray(log_values.multiply(log_values).mean(axis=0)).ravel() - mean**2
    varies = variance > 1e-12
    if not varies.any():
        raise InputError(f"panel: none of {len(columns)} genes varies over {len(cells)} training cells")
    score = np.full(len(columns), -np.inf)
    if flavour == "variance":
        score[varies] = variance[varies]
    else:
        if flavour == "seurat_v3" and (counts.data != np.round(counts.data)).any():
            raise InputError(
                "panel: flavour seurat_v3 needs counts, this atlas has other linear values; "
                "choose seurat, cell_ranger or variance"
            )
        chosen = counts if flavour == "seurat_v3" else log_values
        score[varies] = scanpy_scores(chosen[:, varies], flavour, "cells")
    score[~np.isfinite(score)] = -np.inf
    genes = np.array(atlas.genes)[columns]
    order = np.lexsort((genes, -score))[: min(size, int(np.isfinite(score).sum()))]
    return pd.DataFrame({"gene": genes[order], "score": score[order], "rank": np.arange(1, len(order) + 1)})


def given_panel(path: str | Path, atlas: Atlas, in_vocabulary: Collection[str]) -> pd.DataFrame:
    """A panel of one's own: genes listed in a text file, one per line (empty lines and `#` comments are skipped).

    Returns a frame like `choose_panel`'s, in the order of the file, without scores. Raises InputError naming the
    genes that nobody knows, that the atlas or the vocabulary lacks, or that are there twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of genes ({error})") from error
    listed = [name for name in (line.partition("#")[0].strip() for line in lines) if name]
    if not listed:
        raise InputError(f"{path}: lists no gene")
    if len(listed) > LARGEST:
        raise InputError(f"{path}: lists {len(listed)} genes; a profile is shown by {LARGEST} at most")
    genes, _ = gene_names().canonical(listed)
    have = set(atlas.genes) & set(in_vocabulary)
    wrong = {
        "known by no such name": [name for name, gene in zip(listed, genes) if gene is None],
        "not in both the atlas and the vocabulary": [gene for gene in genes if gene is not None and gene not in have],
        "there twice": sorted({gene for gene in genes if gene is not None and genes.count(gene) > 1}),
    }
    for what, names in wrong.items():
        if names:
            raise InputError(f"{path}: {len(names)} of {len(listed)} genes are {what}: {', '.join(names[:5])}")
    return pd.DataFrame({"gene": genes, "score": np.nan, "rank": np.arange(1, len(genes) + 1)})


def match_panel(panel: Sequence[str], genes: Sequence[str], max_missing: float = 0.2) -> np.ndarray:
    """Where each gene of the panel lies in `genes`: int64 [panel], −1 for a missing one.

    A missing gene counts as not expressed. Raises InputError where more than `max_missing` of the panel is missing:
    embeddings of so few genes would not be comparable with those of the other cohorts.
    """
    if not len(panel):
        raise InputError("the panel has no gene")
    place = {gene: k for k, gene in enumerate(genes)}
    found = np.array([place.get(gene, -1) for gene in panel], dtype=np.int64)
    missing = [gene for gene, k in zip(panel, found) if k < 0]
    if len(missing) > max_missing * len(panel):
        raise InputError(
            f"{len(missing)} of the panel's {len(panel)} genes ({len(missing) / len(panel):.0%}; allowed are "
            f"{max_missing:.0%}) are missing here: {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}; "
            "are the genes named by symbols? Otherwise choose the panel among genes that the cohort has, or raise "
            "max_missing"
        )
    return found

"""Highly variable genes, chosen on the training part of every split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.genomics.variability import FLAVOURS, scanpy_scores
from histofuse.io import InputError


def highly_variable(
    log_tpm: pd.DataFrame,
    top: float,
    flavour: str = "variance",
    counts: pd.DataFrame | None = None,
    sources: pd.Series | None = None,
) -> pd.DataFrame:
    """Rank the genes of one training part by how much they vary, and select the first.

    Args:
        log_tpm: log2(1 + TPM) [case, gene] of the training cases alone.
        top: share of the genes (below 1) or their number; constant genes are never selected.
        flavour: `variance` of log2(1 + TPM), or a flavour of scanpy's `highly_variable_genes`: `seurat` and
            `cell_ranger` (normalised dispersions, from ln(1 + TPM)) or `seurat_v3` (standardised variance of counts).
        counts: whole counts [case, gene], the same cases and genes; for `seurat_v3` only.
        sources: the source cohort by case, for the variance within sources: each case is held against the mean of its
            own one, or a shift between platforms would count as variability. Cases that it does not name are a source
            of their own. For `variance` only; without it all cases are one source.

    Returns a frame `gene, score, rank, selected` in the order of the columns; rank 1 has the highest score, ties go
    to the earlier gene. Raises InputError for missing or unsuitable values.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"flavour {flavour!r} is not one of {', '.join(FLAVOURS)}")
    if top <= 0:
        raise InputError(f"top is {top}; give a share below 1 or a number of genes")
    values = log_tpm.to_numpy(np.float64)
    if not np.isfinite(values).all():
        case, gene = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"case {log_tpm.index[case]}, gene {log_tpm.columns[gene]}: the expression is not a number")
    if sources is not None and flavour != "variance":
        raise InputError(f"per_source: flavour {flavour} ranks all cases as one; choose variance, or per_source: false")
    parts = [values] if sources is None else _by_source(values, sources.reindex(log_tpm.index))
    varies = np.any([part.max(axis=0) > part.min(axis=0) for part in parts], axis=0)
    if not varies.any():
        raise InputError(f"none of {values.shape[1]} genes varies over {len(values)} training cases")
    score = _variance(parts) if flavour == "variance" else _by_scanpy(log_tpm, flavour, counts)
    score = np.where(varies & np.isfinite(score), score, -np.inf)
    wanted = round(top * len(score)) if top < 1 else int(top)
    order = np.argsort(-score, kind="stable")
    rank = np.empty(len(score), dtype=np.int32)
    rank[order] = np.arange(1, len(score) + 1)
    return pd.DataFrame(
        {
            "gene": log_tpm.columns.to_numpy(str),
            "score": np.where(np.isinf(score), np.nan, score),
            "rank": rank,
            "selected": (rank <= max(1, wanted)) & np.isfinite(score),
        }
    )


def select_genes(
    log_tpm: pd.DataFrame,
    splits: pd.DataFrame,
    top: float,
    flavour: str = "variance",
    fitted_on: str = "train",
    counts: pd.DataFrame | None = None,
    sources: pd.Series | None = None,
    per_source: bool | None = None,
) -> pd.DataFrame:
    """The highly variable genes of every split of a protocol.

    Args:
        log_tpm: log2(1 + TPM) [case, gene], indexed by case.
        splits: `split, case_id, part`; no outcome is looked at.
        fitted_on: `train`, on each split's training cases that have expression; `all`, once on all cases, the same
            for every split, which is what the papers did and lets the test part take part in the choice.
        top, flavour, counts: of `highly_variable`.
        sources: the source cohort by case. per_source: whether the variance is that within sources, where there are
            several; by default it is for `variance` on training cases, and not for what was published or for scanpy's
            flavours.

    Returns a frame `split, gene, score, rank, selected`.
    """
    if fitted_on not in ("train", "all"):
        raise InputError(f"fitted_on {fitted_on!r} is neither train nor all")
    if per_source is None:
        per_source = flavour == "variance" and fitted_on == "train"
    within = sources if per_source and sources is not None and sources.nunique() > 1 else None
    once = _fit(log_tpm, log_tpm.index, top, flavour, counts, within) if fitted_on == "all" else None
    frames = []
    for split, parts in splits.groupby("split"):
        train = parts.loc[parts["part"] == "train", "case_id"]
        cases = log_tpm.index[log_tpm.index.isin(train)]
        if once is None and len(cases) < 2:
            raise InputError(f"split {split}: {len(cases)} of {len(train)} training cases have expression, not two")
        chosen = _fit(log_tpm, cases, top, flavour, counts, within) if once is None else once
        frames.append(chosen.assign(split=split)[["split", "gene", "score", "rank", "selected"]])
    return pd.concat(frames, ignore_index=True)


def select_panel(log_tpm: pd.DataFrame, splits: pd.DataFrame, panel: pd.DataFrame) -> pd.DataFrame:
    """The genes of an embedding's `panel` (`gene, rank, score`) as a selection, the same for every split.

    The panel was chosen on an atlas, without a look at any case; genes that the cohort lacks are left out.
    """
    found = pd.DataFrame({"gene": log_tpm.columns.to_numpy(str)}).merge(panel, on="gene", how="left")
    found["selected"] = found["rank"].notna()
    if not found["selected"].any():
        raise InputError(f"none of the panel's {len(panel)} genes is among the cohort's {len(found)}")
    frames = [found.assign(split=split) for split in sorted(splits["split"].unique())]
    return pd.concat(frames, ignore_index=True)[["split", "gene", "score", "rank", "selected"]]


def read_counts(path: str | Path) -> pd.DataFrame:
    """The counts [case, gene] of a cohort's expression.h5ad. Raises InputError where there are none, or no file."""
    if not path:
        raise InputError("flavour seurat_v3 needs counts, which a published table does not have; choose variance")
    import anndata

    matrix = anndata.read_h5ad(path)
    if "counts" not in matrix.layers:
        raise InputError(f"{path}: there is no layer counts, which flavour seurat_v3 needs; choose variance")
    return matrix.to_df("counts")


def _fit(
    log_tpm: pd.DataFrame,
    cases: pd.Index,
    top: float,
    flavour: str,
    counts: pd.DataFrame | None,
    sources: pd.Series | None,
) -> pd.DataFrame:
    if counts is not None:
        strange = [name for name in cases if name not in counts.index]
        if strange or not counts.columns.equals(log_tpm.columns):
            what = f"case {strange[0]} is missing" if strange else "the genes are others"
            raise InputError(f"the counts do not fit the expression table: {what}; make both anew")
        counts = counts.loc[cases]
    return highly_variable(log_tpm.loc[cases], top, flavour, counts, sources)


def _by_source(values: np.ndarray, sources: pd.Series) -> list[np.ndarray]:
    """The rows of each source."""
    names = sources.astype("string").fillna("").to_numpy(str)
    return [values[names == name] for name in np.unique(names)]


def _variance(parts: list[np.ndarray]) -> np.ndarray:
    """Of each column the mean squared distance from the mean of its part, over the rows of all parts."""
    if len(parts) == 1:
        return parts[0].var(axis=0)
    return sum(len(part) * part.var(axis=0) for part in parts) / sum(map(len, parts))


def _by_scanpy(log_tpm: pd.DataFrame, flavour: str, counts: pd.DataFrame | None) -> np.ndarray:
    """scanpy's score of every gene; NaN where it gives none."""
    if flavour == "seurat_v3":
        if counts is None:
            raise InputError("flavour seurat_v3 needs counts; choose variance, seurat or cell_ranger")
        values = counts.to_numpy(np.float64)
    else:
        values = log_tpm.to_numpy(np.float64) * np.log(2)
    _check_scale(values, flavour)
    return scanpy_scores(values, flavour, "cases")


def _check_scale(values: np.ndarray, flavour: str) -> None:
    if flavour == "seurat_v3":
        if values.min() < 0 or (values != values.round()).any():
            raise InputError("flavour seurat_v3 needs whole counts ≥ 0; these values were scaled or are logarithms")
    elif values.min() < 0 or values.max() > np.log(1e6 + 1) + 1e-3:
        raise InputError(
            f"flavour {flavour} needs log2(1 + TPM), between 0 and 20; the table's values reach from "
            f"{values.min() / np.log(2):g} to {values.max() / np.log(2):g}; choose variance"
        )

"""Gene expression from the GDC's augmented STAR counts: read, check, one matrix in one gene order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histofuse.genomics.files import read_gdc_table, read_or_set_aside
from histofuse.io import InputError

if TYPE_CHECKING:
    from anndata import AnnData

STAR_COLUMNS = (
    "gene_id",
    "gene_name",
    "gene_type",
    "unstranded",
    "stranded_first",
    "stranded_second",
    "tpm_unstranded",
    "fpkm_unstranded",
    "fpkm_uq_unstranded",
)
_NUMBERS = ("unstranded", "tpm_unstranded", "fpkm_unstranded")
_SUMMARY_ROWS = ["N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous"]
_RELATIVE, _ABSOLUTE = 1e-3, 2e-2  # the files round TPM and FPKM to four decimals; FPKM is scaled up to TPM here


def read_star(path: str | Path) -> pd.DataFrame:
    """Read one augmented STAR count file: a frame `gene_id, gene_name, gene_type, counts, tpm` in file order.

    gene_id keeps its version. The file's TPM is checked against 10⁶·FPKM/ΣFPKM, which must be the same number
    (gene lengths cancel), so that a file whose columns were cut, mixed up or rescaled does not pass. Raises
    InputError naming the file, and the line and column where there is one.
    """
    table, first_line = read_gdc_table(path, STAR_COLUMNS)
    if table["gene_id"].head(4).tolist() != _SUMMARY_ROWS:
        raise InputError(f"{path}: the four N_* rows of STAR are not where they should be; is the file cut?")
    genes = table.iloc[4:].reset_index(drop=True)
    if genes.empty:
        raise InputError(f"{path}: no gene below the N_* rows")
    for column in ("gene_id", "gene_name"):
        if genes[column].isna().any():
            line = first_line + 4 + int(np.flatnonzero(genes[column].isna())[0])
            raise InputError(f"{path}, line {line}: the gene has no {column}")
    if genes["gene_id"].duplicated().any():
        raise InputError(f"{path}: gene {genes['gene_id'][genes['gene_id'].duplicated()].iloc[0]} is there twice")
    for column in _NUMBERS:
        numbers = pd.to_numeric(genes[column], errors="coerce")
        bad = ~(np.isfinite(numbers) & (numbers >= 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{path}, line {first_line + 4 + row} ({genes['gene_id'][row]}): "
                f"{column} is {genes[column][row]}, not a number ≥ 0"
            )
        genes[column] = numbers
    tpm, fpkm = genes["tpm_unstranded"].to_numpy(float), genes["fpkm_unstranded"].to_numpy(float)
    if fpkm.sum() == 0:
        raise InputError(f"{path}: every gene has zero FPKM")
    wrong = ~np.isclose(tpm, fpkm * (1e6 / fpkm.sum()), rtol=_RELATIVE, atol=_ABSOLUTE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{path}, line {first_line + 4 + row} ({genes['gene_id'][row]}): tpm_unstranded is {tpm[row]:g} but "
            f"fpkm_unstranded makes it {fpkm[row] * 1e6 / fpkm.sum():g}; download the file again"
        )
    counts = genes["unstranded"]
    if (counts != counts.round()).any():
        raise InputError(f"{path}: the counts are not whole numbers")
    return pd.DataFrame(
        {
            "gene_id": genes["gene_id"],
            "gene_name": genes["gene_name"],
            "gene_type": genes["gene_type"],
            "counts": counts.astype(np.int64),
            "tpm": tpm,
        }
    )


def expression_matrix(
    files: Iterable[tuple[str, str | Path]],
    *,
    gene_types: Sequence[str] | None = None,
    max_excluded: float = 0.05,
) -> tuple[AnnData, pd.DataFrame]:
    """All cases' expression as one AnnData (cases × gene symbols), and the cases whose file was set aside.

    Genes that share a symbol (the two copies of a pseudo-autosomal gene, families of small RNAs) are summed,
    in counts and in TPM, both of which add; the symbol keeps the first one's id. TPM is relative to all
    genes, so `gene_types` (for instance protein_coding) selects after it.

    Layers: counts (int32), tpm and log_tpm = log2(1 + TPM) (float32); var: gene_id (without version),
    gene_name, gene_type; obs_names: case ids, sorted. Every file must list the same genes in the same order.
    Files that cannot be read are set aside with their reason; more than `max_excluded` of all is an
    InputError.
    """
    from anndata import AnnData

    genes: pd.DataFrame | None = None

    def read(path: str | Path, case: str) -> pd.DataFrame:
        nonlocal genes
        frame = read_star(path)
        if genes is None:
            genes = frame[["gene_id", "gene_name", "gene_type"]]
        elif not genes["gene_id"].equals(frame["gene_id"]):
            raise InputError(
                f"{path}: its genes or their order differ from the other files' (another GENCODE release?)"
            )
        return frame[["counts", "tpm"]]

    frames, excluded = read_or_set_aside(files, read, "STAR counts", max_excluded)
    ids = sorted(frames)
    symbols, first = np.unique(genes["gene_name"].to_numpy(str), return_index=True)
    var = genes.iloc[first].reset_index(drop=True)
    var["gene_id"] = var["gene_id"].str.replace(r"\.\d+", "", regex=True)
    var.index = pd.Index(symbols, dtype=str)
    counts = _sum_by_symbol(np.stack([frames[i]["counts"].to_numpy() for i in ids]), genes["gene_name"])
    tpm = _sum_by_symbol(np.stack([frames[i]["tpm"].to_numpy() for i in ids]), genes["gene_name"])
    kept = np.ones(len(var), bool) if gene_types is None else var["gene_type"].isin(gene_types).to_numpy()
    if not kept.any():
        raise InputError(f"no gene is of the type(s) {gene_types}; the files have {sorted(var['gene_type'].unique())}")
    layers = {
        "counts": counts[:, kept].astype(np.int32),
        "tpm": tpm[:, kept].astype(np.float32),
        "log_tpm": np.log2(1 + tpm[:, kept]).astype(np.float32),
    }
    return AnnData(obs=pd.DataFrame(index=pd.Index(ids, dtype=str)), var=var[kept], layers=layers), excluded


def _sum_by_symbol(values: np.ndarray, names: pd.Series) -> np.ndarray:
    """Sum columns [cases, genes] of one symbol; columns come out in the sorted order of symbols."""
    order = np.argsort(names.to_numpy(str), kind="stable")
    starts = np.unique(names.to_numpy(str)[order], return_index=True)[1]
    return np.add.reduceat(values[:, order], starts, axis=1)


def as_table(matrix: AnnData, layer: str = "log_tpm") -> pd.DataFrame:
    """A layer as a plain frame `case_id` + one float32 column per symbol, for jobs that have no anndata."""
    frame = pd.DataFrame(matrix.layers[layer], columns=matrix.var_names)
    frame.insert(0, "case_id", matrix.obs_names.to_numpy(str))
    return frame

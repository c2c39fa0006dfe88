"""Gene expression: the GDC's augmented STAR counts read and checked, and matrices in one order of genes.

Every matrix here has canonical gene symbols as columns, sorted, and keeps counts, FPKM and TPM in layers of their
own. Cohorts whose files list other genes, in another order and in other units, are joined on the genes they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histofuse.genomics.files import read_gdc_table, read_or_set_aside
from histofuse.genomics.genes import gene_names, sum_duplicates
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
_LEAST_SHARED = 0.5  # of the smaller cohort's genes; with fewer, one of the two has other names than symbols
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
    """All cases' expression as one AnnData (cases × canonical gene symbols), and the cases whose file was set aside.

    Genes are named by their Ensembl id; those that the canonical list lacks (most are not protein-coding) keep the
    file's symbol. Genes that then share a symbol (the two copies of a pseudo-autosomal gene, families of small RNAs)
    are summed, in counts and in TPM, both of which add; the symbol keeps the first one's id. TPM is relative to
    all genes, so `gene_types` (for instance protein_coding) selects after it.

    Layers: counts (int32), tpm and log_tpm = log2(1 + TPM) (float32); var: gene_id (without version), gene_name (the
    file's symbol), gene_type; obs_names: case ids, sorted. Every file must list the same genes in the same order.
    Files that cannot be read are set aside with their reason; more than `max_excluded` of all is an InputError.
    """
    genes: pd.DataFrame | None = None
    source = ""  # the file that `genes` is from

    def read(path: str | Path, case: str) -> pd.DataFrame:
        nonlocal genes, source
        frame = read_star(path)
        if genes is None:
            genes, source = frame[["gene_id", "gene_name", "gene_type"]], str(path)
        elif not genes["gene_id"].equals(frame["gene_id"]):
            raise InputError(
                f"{path}: its genes or their order differ from the other files' (another GENCODE release?)"
            )
        return frame[["counts", "tpm"]]

    frames, excluded = read_or_set_aside(files, read, "STAR counts", max_excluded)
    ids = sorted(frames)
    values = {name: np.stack([frames[i][name].to_numpy() for i in ids]) for name in ("counts", "tpm")}
    matrix = by_symbol(values, genes, source)
    matrix.obs = pd.DataFrame(index=pd.Index(ids, dtype=str))
    matrix.var["gene_id"] = matrix.var["gene_id"].str.replace(r"\.\d+", "", regex=True)
    return of_types(matrix, gene_types), excluded


def of_types(matrix: AnnData, gene_types: Sequence[str] | None) -> AnnData:
    """The columns of a matrix whose `gene_type` is one of `gene_types`; all of them for None."""
    if gene_types is None:
        return matrix
    kept = matrix.var["gene_type"].isin(gene_types).to_numpy()
    if not kept.any():
        known = sorted(matrix.var["gene_type"].unique())
        raise InputError(f"no gene is of the type(s) {gene_types}; the files have {known}")
    return matrix[:, kept].copy()


def by_symbol(values: Mapping[str, np.ndarray], genes: pd.DataFrame, where: str) -> AnnData:
    """Matrices [profiles, genes] as an AnnData of profiles × canonical symbols, sorted, duplicates summed.

    `values`: by layer, quantities that add (counts, fpkm, tpm). `genes`: what to keep of each gene in `var`, with its
    symbol in `gene_name` and Ensembl's or NCBI's id in `gene_id`; the first gene of a symbol stands for the others.
    A layer log_tpm = log2(1 + TPM) is added; counts become int32, all else float32. Raises InputError, naming `where`,
    when ids and symbols contradict each other.
    """
    from anndata import AnnData

    old = genes["gene_name"].tolist()
    try:
        symbols, how = gene_names().canonical(old, genes["gene_id"].tolist(), keep_unknown=True)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    print(f"{len(symbols)} genes named by: {dict(how)}; the unknown keep their symbol")
    symbols = [symbol or None for symbol in symbols]  # without any name: left out
    first = pd.Series(range(len(symbols)), index=symbols).groupby(level=0).first()
    var = genes.iloc[first].reset_index(drop=True)
    var.index = pd.Index(first.index, dtype=str)
    layers = {}
    for layer, matrix in values.items():
        summed, names = sum_duplicates(matrix, symbols)
        assert names == var.index.tolist()
        layers[layer] = summed.astype(np.int32 if layer == "counts" else np.float32)
        if layer == "tpm":
            layers["log_tpm"] = np.log2(1 + summed).astype(np.float32)
    return AnnData(obs=pd.DataFrame(index=pd.RangeIndex(len(summed)).astype(str)), var=var, layers=layers)


def join_cohorts(members: Sequence[tuple[str, AnnData]]) -> AnnData:
    """The matrices of several cohorts as one (cases × genes that all of them have), with their names in obs `source`.

    Whatever the order of a cohort's columns, the result has the shared symbols in sorted order. TPM are relative to
    the genes that a cohort's files list (one may count thousands of non-coding genes, another a ribosomal RNA that
    takes half of all reads), so that the same number means different things in two cohorts: each profile is scaled to
    a million over the shared genes, and log_tpm = log2(1 + TPM) is made anew. Layers: tpm, log_tpm, and counts where
    every cohort has them. var is the first cohort's; cases are sorted.

    Raises InputError when a case is in two cohorts, a matrix has no TPM, a column twice or a value that is none, a
    case expresses no shared gene, or fewer than half of the smaller cohort's genes are shared.
    """
    import anndata

    shared = sorted(set.intersection(*(set(matrix.var_names) for _, matrix in members)))
    smallest = min(members, key=lambda member: member[1].n_vars)
    if len(shared) < _LEAST_SHARED * smallest[1].n_vars:
        names = ", ".join(f"{name} ({', '.join(matrix.var_names[:3])}, …)" for name, matrix in members)
        raise InputError(
            f"only {len(shared)} of the {smallest[1].n_vars} genes of cohort {smallest[0]} are in the other cohorts; "
            f"are the columns symbols of the same species? {names}"
        )
    layers = ["counts"] if all("counts" in matrix.layers for _, matrix in members) else []
    parts = []
    for name, matrix in members:
        if not matrix.var_names.is_unique:
            raise InputError(f"cohort {name}: gene {matrix.var_names[matrix.var_names.duplicated()][0]} is there twice")
        if "tpm" not in matrix.layers:
            raise InputError(f"cohort {name}: its matrix has no layer tpm; there are {', '.join(matrix.layers)}")
        part = matrix[:, shared].copy()
        tpm = part.layers["tpm"].astype(np.float64)
        wrong = ~(np.isfinite(tpm) & (tpm >= 0))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"cohort {name}: case {part.obs_names[row]}, gene {shared[column]}: TPM is {tpm[row, column]:g}"
            )
        total = tpm.sum(axis=1, keepdims=True)
        if (total == 0).any():
            raise InputError(f"cohort {name}: case {part.obs_names[int(total.argmin())]} expresses no shared gene")
        tpm *= 1e6 / total
        part.layers["tpm"], part.layers["log_tpm"] = tpm.astype(np.float32), np.log2(1 + tpm).astype(np.float32)
        part.obs = pd.DataFrame({"source": name}, index=part.obs_names)
        for layer in set(part.layers) - {*layers, "tpm", "log_tpm"}:
            del part.layers[layer]
        parts.append(part)
    names = [name for name, matrix in members for _ in matrix.obs_names]
    cases = pd.Series(names, np.concatenate([part.obs_names for part in parts]))
    twice = cases[cases.index.duplicated(keep=False)]
    if len(twice):
        raise InputError(f"case {twice.index[0]} is in the cohorts {' and '.join(twice.loc[[twice.index[0]]])}")
    assert all(part.var_names.tolist() == shared for part in parts)
    joined = anndata.concat(parts)
    joined.var = parts[0].var
    return joined[np.argsort(joined.obs_names.to_numpy(str), kind="stable")].copy()


def as_table(matrix: AnnData, layer: str = "log_tpm") -> pd.DataFrame:
    """A layer as a plain frame `case_id` + one float32 column per symbol, for jobs that have no anndata."""
    frame = pd.DataFrame(matrix.layers[layer], columns=matrix.var_names)
    frame.insert(0, "case_id", matrix.obs_names.to_numpy(str))
    return frame

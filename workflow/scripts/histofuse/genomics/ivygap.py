"""Gene expression of the Ivy Glioblastoma Atlas Project: the Allen Institute's zip, TPM per sample and per tumour.

A tumour (W10-1-1) was cut into blocks (W10-1-1-E.2, W31-1-1-E) and sub-blocks (W10-1-1-E.2.03), and several
structures were dissected from a sub-block. The 270 samples belong to two studies: 122 whose structure was seen in
the histology (`CT-reference-histology`), and 148 that were found by the expression of a gene (`CT-CD44`).
"""

from __future__ import annotations

import fnmatch
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histofuse.genomics.expression import by_symbol
from histofuse.genomics.genes import gene_names
from histofuse.io import InputError

if TYPE_CHECKING:
    from anndata import AnnData

MEMBERS = ("fpkm_table.csv", "rows-genes.csv", "columns-samples.csv")
LARGEST = 2 * 1024**3  # bytes of a member when unpacked; the real table has 86 MB
_SPELLINGS = {  # releases differ; the first is that of 2014-11-25
    "row": ("gene_id",),  # the atlas's own number
    "gene_id": ("gene_entrez_id", "entrez_id"),
    "gene_name": ("gene_symbol", "symbol"),
    "sample_id": ("rna_well_id", "rna_well", "sample_well", "sample_id"),
    "case_id": ("tumor_name",),
    "block": ("block_name",),
    "sub_block": ("specimen_name", "sub_block_name"),
    "structure": ("structure_abbreviation", "structure_acronym"),
    "structure_name": ("structure_name",),
}
_SAMPLE_COLUMNS = ("sample_id", "case_id", "block", "sub_block", "structure", "structure_name")
_SUB_BLOCK = re.compile(r"(?P<case>W\d+-\d+-\d+)-[A-Z]+(?:\.\d+)*")
_LEAST_MAXIMUM = 50  # of FPKM over a whole table; log2(1 + FPKM) stays below 20


def read_ivygap_zip(path: str | Path) -> AnnData:
    """Read the Allen Institute's expression zip: an AnnData of samples × canonical gene symbols.

    Layers (float32): fpkm as published (the atlas scaled them between samples), tpm = 10⁶·FPKM/ΣFPKM over all
    genes of the table, log_tpm = log2(1 + TPM). Genes of one symbol are summed; genes with neither a known NCBI id nor
    a symbol count in the sum of FPKM and are left out. obs: index sample_id (rna_well_id), case_id (the tumour's
    name), block, sub_block, structure, structure_name; sorted by sample_id. var: gene_id (NCBI's), gene_name (the
    atlas's symbol), gene_type ("" where the canonical list lacks the gene); sorted by canonical symbol.

    Nothing is unpacked to disk. Raises InputError when the file is no zip (a web page, for instance), a member is
    missing, there twice, encrypted or too large, a name climbs out of the archive, the three tables do not fit
    together, or a value is not an FPKM: text, missing, negative, or all of them on a logarithmic scale.
    """
    path = Path(path)
    tables = _read_members(path)
    genes = _columns(tables["rows-genes.csv"], ("row", "gene_id", "gene_name"), f"{path}: rows-genes.csv")
    samples = _columns(tables["columns-samples.csv"], _SAMPLE_COLUMNS, f"{path}: columns-samples.csv")
    _check_samples(samples, f"{path}: columns-samples.csv")
    fpkm, gene_ids, sample_ids = _values(tables["fpkm_table.csv"], f"{path}: fpkm_table.csv")
    genes = _in_order_of(gene_ids, genes, "row", f"{path}: rows-genes.csv")
    samples = _in_order_of(sample_ids, samples, "sample_id", f"{path}: columns-samples.csv")

    total = fpkm.sum(axis=1, keepdims=True)
    if (total == 0).any():
        raise InputError(
            f"{path}: fpkm_table.csv: every gene of sample {sample_ids[int(total.argmin())]} has zero FPKM"
        )
    order = np.argsort(samples["sample_id"].to_numpy(str), kind="stable")
    values = {"fpkm": fpkm[order], "tpm": (fpkm * (1e6 / total))[order]}
    matrix = by_symbol(values, genes[["gene_id", "gene_name"]], f"{path}: rows-genes.csv")
    matrix.var["gene_type"] = [gene_names().gene_type.get(symbol, "") for symbol in matrix.var_names]
    matrix.obs = samples.iloc[order].set_index("sample_id")
    return matrix


def by_case(samples: AnnData, structures: Sequence[str] | None = None) -> AnnData:
    """One profile per tumour: the mean of TPM over its samples, each sample with the same weight, then log2(1 + TPM).

    `structures` restricts the samples by `obs.structure`: names or patterns such as `CT-reference-histology` (cellular
    tumour seen in the histology) or `*-reference-histology`; by default all samples count. Layers tpm and log_tpm;
    obs: index case_id, n_samples, structures (those that took part). Raises InputError for a pattern that fits no
    sample.
    """
    from anndata import AnnData

    kept = np.ones(samples.n_obs, bool)
    if structures is not None:
        kept[:] = False
        names = samples.obs["structure"].astype(str)
        for pattern in structures:
            fits = names.map(lambda name, pattern=pattern: fnmatch.fnmatchcase(name, pattern)).to_numpy(bool)
            if not fits.any():
                known = ", ".join(sorted(names.unique()))
                raise InputError(f"structures: {pattern!r} is not a structure of any sample; there are {known}")
            kept |= fits
        if not kept.any():
            raise InputError("structures: the list is empty; leave it out to take all samples")
    chosen = samples[kept]
    groups = chosen.obs.reset_index().groupby("case_id", observed=True, sort=True)
    rows = groups.indices
    tpm = np.stack([chosen.layers["tpm"][index].mean(axis=0, dtype=np.float64) for index in rows.values()])
    obs = pd.DataFrame(
        {
            "n_samples": [len(index) for index in rows.values()],
            "structures": groups["structure"].agg(lambda names: ", ".join(sorted(set(names.astype(str))))).to_numpy(),
        },
        index=pd.Index(list(rows), dtype=str, name="case_id"),
    )
    layers = {"tpm": tpm.astype(np.float32), "log_tpm": np.log2(1 + tpm).astype(np.float32)}
    return AnnData(obs=obs, var=samples.var.copy(), layers=layers)


def add_details(samples: AnnData, details: pd.DataFrame, where: str | Path) -> None:
    """Add `study_name` from the portal's table of RNA-seq samples to `samples.obs`.

    `details`: text columns for the sample's id and the tumour's name, and `study_name` where it has one. Its tumours
    must be those of the archive, which checks one export of the atlas against another; samples that only the portal
    knows (it has nine more) are ignored. Raises InputError naming the sample otherwise.
    """
    table = _columns(details, ("sample_id", "case_id"), str(where))
    table["study_name"] = details.get("study_name", "")
    if table["sample_id"].duplicated().any():
        raise InputError(
            f"{where}: sample {table['sample_id'][table['sample_id'].duplicated()].iloc[0]} is there twice"
        )
    table = table.set_index("sample_id").reindex(samples.obs_names)
    own = samples.obs["case_id"].astype(str)
    wrong = table["case_id"].notna() & (table["case_id"] != own)
    if wrong.any():
        sample = table.index[wrong][0]
        raise InputError(
            f"{where}: sample {sample} is of tumour {table.loc[sample, 'case_id']}, in the archive of {own[sample]}"
        )
    samples.obs["study_name"] = table["study_name"].fillna("").to_numpy(str)


def add_sub_blocks(samples: AnnData, sub_blocks: pd.DataFrame, where: str | Path) -> None:
    """Add `sub_block_id` (the number by which the portal shows a sub-block's slides) to `samples.obs`.

    A sample and a slide belong together when they are of the same tumour, block and sub-block, which is what the
    name of a sub-block says. "" where the table lacks it. Raises InputError for a missing column or a name twice.
    """
    missing = [column for column in ("sub_block_id", "sub_block_name") if column not in sub_blocks]
    if missing:
        raise InputError(f"{where}: the column(s) {', '.join(missing)} are missing; there are {', '.join(sub_blocks)}")
    names = sub_blocks["sub_block_name"]
    if names.duplicated().any():
        raise InputError(f"{where}: sub-block {names[names.duplicated()].iloc[0]} is there twice")
    ids = sub_blocks.set_index("sub_block_name")["sub_block_id"]
    samples.obs["sub_block_id"] = samples.obs["sub_block"].astype(str).map(ids).fillna("").to_numpy(str)


def _read_members(path: Path) -> dict[str, pd.DataFrame]:
    """The three tables by name; they may lie in a folder of the archive."""
    tables = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            for info in infos:
                name = PurePosixPath(info.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts or ":" in info.filename:
                    raise InputError(f"{path}: the member {info.filename!r} would land outside; it is no atlas archive")
            for member in MEMBERS:
                found = [i for i in infos if PurePosixPath(i.filename).name == member and "__MACOSX" not in i.filename]
                if len(found) != 1:
                    names = ", ".join(i.filename for i in infos[:8])
                    problem = "is missing" if not found else f"is there {len(found)} times"
                    raise InputError(f"{path}: {member} {problem}; the archive holds {names or 'nothing'}")
                (info,) = found
                if info.flag_bits & 1:
                    raise InputError(f"{path}: {member} is encrypted")
                if info.file_size > LARGEST:
                    raise InputError(f"{path}: {member} would unpack to {info.file_size} bytes, more than {LARGEST}")
                text = {} if member == MEMBERS[0] else {"dtype": str, "keep_default_na": False}
                with archive.open(info) as file:
                    tables[member] = pd.read_csv(
                        file, encoding="utf-8-sig", low_memory=False, index_col=False, header=0, **text
                    )
    except (
        OSError,
        EOFError,
        zlib.error,
        NotImplementedError,
        UnicodeDecodeError,
        zipfile.BadZipFile,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
    ) as error:
        page = path.is_file() and path.read_bytes()[:512].lstrip().startswith(b"<")
        what = "it holds a web page, which the portal answers with status 200" if page else str(error)
        raise InputError(f"{path}: cannot be read as the zip of the atlas ({what}); download it again") from error
    return tables


def _columns(table: pd.DataFrame, wanted: Sequence[str], where: str) -> pd.DataFrame:
    """The wanted columns under our names, as stripped text."""
    chosen = {}
    for name in wanted:
        spelling = next((spelling for spelling in _SPELLINGS[name] if spelling in table), None)
        if spelling is None:
            raise InputError(
                f"{where}: the column {' or '.join(_SPELLINGS[name])} is missing; there are {', '.join(table)}"
            )
        chosen[name] = table[spelling].astype(str).str.strip()
    return pd.DataFrame(chosen)


def _check_samples(samples: pd.DataFrame, where: str) -> None:
    """Names of sub-blocks must begin with their tumour's, or samples would go to the wrong patients."""
    cases = samples["sub_block"].str.extract(rf"^{_SUB_BLOCK.pattern}$")["case"]
    wrong = cases != samples["case_id"]
    if wrong.any():
        row = samples[wrong].iloc[0]
        raise InputError(
            f"{where}: sample {row['sample_id']}: the sub-block {row['sub_block']!r} is not one of tumour "
            f"{row['case_id']!r} (expected, for instance, W10-1-1-E.2.03 of W10-1-1)"
        )


def _values(table: pd.DataFrame, where: str) -> tuple[np.ndarray, list[str], list[str]]:
    """FPKM [samples, genes] in float64, the gene ids and the sample ids, in the table's order."""
    first = str(table.columns[0])
    if not first.strip().startswith("gene_id") or table.shape[1] < 2 or table.empty:
        raise InputError(f"{where}: expected a first column gene_id and one column per sample; the first is {first!r}")
    sample_ids = [str(column).strip() for column in table.columns[1:]]
    gene_ids = table[table.columns[0]].astype(str).str.strip()
    if gene_ids.duplicated().any():
        raise InputError(f"{where}: gene {gene_ids[gene_ids.duplicated()].iloc[0]} is there twice")
    columns = []
    for sample, name in zip(sample_ids, table.columns[1:]):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        wrong = ~(np.isfinite(numbers) & (numbers >= 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(f"{where}: sample {sample}, gene {gene_ids[row]}: {table[name][row]} is not a number ≥ 0")
        columns.append(numbers)
    fpkm = np.stack(columns)
    if 0 < fpkm.max() < _LEAST_MAXIMUM:
        raise InputError(
            f"{where}: the largest value is {fpkm.max():g}: the values look log-transformed, FPKM are expected as "
            "published"
        )
    return fpkm, gene_ids.tolist(), sample_ids


def _in_order_of(ids: list[str], table: pd.DataFrame, column: str, where: str) -> pd.DataFrame:
    """The rows of `table` in the order of `ids`; both must hold the same ids, each once."""
    if table[column].duplicated().any():
        raise InputError(f"{where}: id {table[column][table[column].duplicated()].iloc[0]} is there twice")
    unknown = sorted(set(ids) - set(table[column]))
    if unknown:
        raise InputError(f"{where}: {len(unknown)} ids of fpkm_table.csv are not described, the first {unknown[0]}")
    without = sorted(set(table[column]) - set(ids))
    if without:
        raise InputError(f"{where}: {len(without)} ids are not in fpkm_table.csv, the first {without[0]}")
    return table.set_index(column, drop=False).loc[ids].reset_index(drop=True)

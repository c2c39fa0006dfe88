"""Mutations and copy number of each case, from the GDC's MAFs and gene-level copy number files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.genomics.files import read_gdc_table, read_or_set_aside
from histofuse.genomics.genes import gene_names
from histofuse.io import InputError

MAF_COLUMNS = ("Hugo_Symbol", "Variant_Classification", "Tumor_Sample_Barcode")
CPTAC_SAMPLE = r"CPT\d+"  # TCGA's barcodes begin with the case, those of CPTAC's aliquots tell nothing of it
NON_SILENT = frozenset(
    {
        "Frame_Shift_Del",
        "Frame_Shift_Ins",
        "In_Frame_Del",
        "In_Frame_Ins",
        "Missense_Mutation",
        "Nonsense_Mutation",
        "Nonstop_Mutation",
        "Splice_Site",
        "Translation_Start_Site",
    }
)
COPY_NUMBER_COLUMNS = ("gene_id", "gene_name", "chromosome", "start", "end", "copy_number")
_AUTOSOMES = frozenset(f"chr{number}" for number in range(1, 23))
FOR_DIAGNOSIS = "CDKN2A"  # WHO 2021 grades astrocytomas by its calls
HIGH_GAIN = 3  # copies above the ploidy that make an amplification (in a diploid genome, five copies)
MOST_UNCALLED = 0.5  # share of autosomal genes without a copy number above which a file says too little


def read_maf(path: str | Path, case_id: str) -> frozenset[str]:
    """The canonical symbols of the genes with a mutation that changes the protein (`NON_SILENT`) in a case's MAF.

    Comment lines and gzip are understood; a MAF without a variant is a tumour without one. Raises InputError
    when a column is missing, a row has no gene or class, or the variants are of another patient (or, as CPTAC's
    samples do not tell the patient, of several samples).
    """
    table, first_line = read_gdc_table(path, MAF_COLUMNS)
    for column in MAF_COLUMNS:
        if table[column].isna().any():
            line = first_line + int(np.flatnonzero(table[column].isna())[0])
            raise InputError(f"{path}, line {line}: {column} is empty")
    samples = table["Tumor_Sample_Barcode"].astype(str)
    unnamed = samples.str.fullmatch(CPTAC_SAMPLE) & samples.isin(samples.head(1))
    strangers = ~(samples.str.startswith(case_id) | unnamed)
    if strangers.any():
        other = samples[strangers].iloc[0]
        raise InputError(f"{path}: the manifest says case {case_id}, the file has variants of {other}")
    changed = table.loc[table["Variant_Classification"].isin(NON_SILENT), "Hugo_Symbol"].astype(str)
    return frozenset(_canonical(tuple(changed)))


def read_copy_number(path: str | Path) -> pd.Series:
    """Calls −2..2 (int8) by canonical gene symbol from one gene-level copy number file (whole copies, as ASCAT gives
    them).

    The ploidy is the median over autosomal genes. No copy is −2 (homozygous deletion), fewer than the ploidy
    −1, the ploidy 0, more than it 1, at least `HIGH_GAIN` more 2 (amplification). A gene in no segment is 0:
    nothing is known to have changed. Genes of the sex chromosomes are left out (their normal number depends
    on sex), and so are symbols that stand for several genes. Raises InputError naming the line of a value
    that is not a number ≥ 0.
    """
    table, first_line = read_gdc_table(path, COPY_NUMBER_COLUMNS)
    copies = pd.to_numeric(table["copy_number"], errors="coerce")
    bad = (copies.isna() & table["copy_number"].notna()) | (copies < 0) | np.isinf(copies)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{path}, line {first_line + row}: copy_number is {table['copy_number'][row]}, not a number ≥ 0"
        )
    names = pd.Series(_canonical(tuple(table["gene_name"].astype(str)), tuple(table["gene_id"].astype(str))))
    usable = table["chromosome"].isin(_AUTOSOMES) & ~names.duplicated(keep=False)
    names, copies = names[usable], copies[usable].to_numpy(float)
    if not len(copies) or np.isnan(copies).mean() > MOST_UNCALLED:
        raise InputError(f"{path}: most autosomal genes have no copy number")
    ploidy = np.round(np.nanmedian(copies))
    calls = np.sign(copies - ploidy)
    calls[copies >= ploidy + HIGH_GAIN] = 2
    calls[copies == 0] = -2
    return pd.Series(np.nan_to_num(calls).astype(np.int8), index=pd.Index(names.astype(str)))


@lru_cache(maxsize=4)  # the files of a cohort list the same sixty thousand genes
def _canonical(symbols: tuple[str, ...], gene_ids: tuple[str, ...] | None = None) -> list[str]:
    """Canonical symbols; a gene without one keeps its own."""
    return gene_names().canonical(symbols, gene_ids, keep_unknown=True)[0]


def alteration_matrix(
    mutations: Iterable[tuple[str, str | Path]],
    copy_number: Iterable[tuple[str, str | Path]],
    *,
    genes: Sequence[str] = (),
    min_frequency: float = 0.05,
    max_excluded: float = 0.05,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mutations and copy number of the cases that have both, and the cases whose files were set aside.

    Columns, all int8: `<gene>_mut` (0/1) and `<gene>_cnv` (−2..2), each kept where at least half of `min_frequency`
    of the cases are mutated, or have any gain or loss, and always for `genes`.

    The frequency filter itself belongs to the models, which fit it on their training part. What is left out here can
    not pass it: a training part of n ≥ N/2 of the N cases in which a share ≥ min_frequency is altered holds at least
    min_frequency · n ≥ min_frequency/2 · N altered cases, and so does the cohort. This asks for models whose own
    `min_frequency` is not lower and that train on half of these cases or more. No outcome is looked at.

    A copy number file that lists other genes than most do is set aside. Returns `(matrix, frame case_id, reason,
    frame case_id, CDKN2A_cnv)`: the last, for the diagnosis, of all cases with copy number, whether or not there are
    mutations; without the column where the files do not list the gene.
    """
    mutated, no_maf = read_or_set_aside(mutations, read_maf, "mutations", max_excluded)
    names, calls, no_calls = _read_calls(list(copy_number), max_excluded)
    ids = sorted(set(mutated) & set(calls))
    if not ids:
        raise InputError("no case has both mutations and copy number")
    enough = min_frequency / 2 * len(ids)
    found = pd.Series([gene for case in ids for gene in mutated[case]], dtype=str).value_counts()
    genes = _canonical(tuple(genes))
    absent = sorted(set(genes) - set(names) - set(found.index))
    if absent:
        raise InputError(f"`genes` names {', '.join(absent)}: no copy number file and no MAF knows them")
    kept = pd.Index(sorted({*found.index[found >= enough], *genes}))
    mut = np.stack([kept.isin(mutated[case]) for case in ids]).astype(np.int8)
    cnv = np.stack([calls[case] for case in ids])
    often = ((cnv != 0).sum(axis=0) >= max(enough, 1)) | names.isin(genes)
    matrix = pd.concat(
        [
            pd.DataFrame({"case_id": ids}),
            pd.DataFrame(mut, columns=[f"{gene}_mut" for gene in kept]),
            pd.DataFrame(cnv[:, often], columns=[f"{gene}_cnv" for gene in names[often]]),
        ],
        axis=1,
    )
    known = sorted(calls)
    of_diagnosis = pd.DataFrame({"case_id": known})
    if FOR_DIAGNOSIS in names:
        place = names.get_loc(FOR_DIAGNOSIS)
        of_diagnosis[f"{FOR_DIAGNOSIS}_cnv"] = np.array([calls[case][place] for case in known], np.int8)
    return matrix, pd.concat([no_maf, no_calls], ignore_index=True), of_diagnosis


def _read_calls(
    files: list[tuple[str, str | Path]], max_excluded: float
) -> tuple[pd.Index, dict[str, np.ndarray], pd.DataFrame]:
    """The gene list that most files share (of equally many the longest, then the first case's), the calls of the cases
    that have it, and `case_id, reason` of the others."""
    lists: list[pd.Index] = []  # each once, not once per case

    def read(path: str | Path, case: str) -> tuple[int, np.ndarray]:
        calls = read_copy_number(path)
        which = next((n for n, names in enumerate(lists) if names.equals(calls.index)), len(lists))
        if which == len(lists):
            lists.append(calls.index)
        return which, calls.to_numpy()

    contents, excluded = read_or_set_aside(files, read, "copy number", max_excluded)
    shared = Counter(which for which, _ in contents.values())
    most = max(shared, key=lambda which: (shared[which], len(lists[which]), -which))
    strange = [case for case, (which, _) in contents.items() if which != most]
    path_of = dict(files)
    reasons = [
        f"{path_of[case]}: lists {len(lists[contents[case][0]])} genes, not the {len(lists[most])} in the same order "
        "that most copy number files list (another GENCODE release?)"
        for case in strange
    ]
    for case, reason in zip(strange, reasons):
        print(f"set aside: {case}: {reason}")
    excluded = pd.concat([excluded, pd.DataFrame({"case_id": strange, "reason": reasons}, dtype=str)])
    if len(excluded) > max_excluded * len(files):
        raise InputError(
            f"{len(excluded)} of {len(files)} files of copy number cannot be used (allowed: {max_excluded:.0%}). "
            f"The first: {excluded['reason'].iloc[0]}"
        )
    return lists[most], {case: calls for case, (which, calls) in contents.items() if which == most}, excluded

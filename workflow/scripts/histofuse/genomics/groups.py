"""Groups of genes: tumour, microenvironment, the six signature families, or a user's own, matched to a cohort.

`config/gene_groups.tsv` has one row per gene and group (`gene, group, source, licence`; several sources are joined by
`; `). Its tumour genes are those that at least three of four published sets of malignant-cell programmes share, and
the drivers of adult-type diffuse gliomas; its microenvironment genes mark immune, stromal and vascular cells. Before
any cut these are 86 and 416 genes, one of them in both. Of those that the 184 real glioma cells of inferCNV show (77
and 168), mixed to bulk tumours, 61 % and 80 % are in the top 30 % by variance of log-TPM: about 52 and 334 genes of a
whole transcriptome, where the paper had 59 and 361 in one list only, and 11 in both.
`tools/gene_tables.py` says which lists, and makes the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from histofuse.genomics.genes import GeneNames, gene_names
from histofuse.io import InputError

TUMOUR, MICROENVIRONMENT = "tumour", "microenvironment"
BOTH = "tumour_and_microenvironment"
MOST_UNKNOWN = 0.5  # share of unknown genes above which a list is not one of human gene symbols
_GROUP = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_groups(path: str | Path, names: GeneNames | None = None) -> pd.DataFrame:
    """Read a tab-separated list of genes by group: a frame `listed_as, gene, group, source, licence` in file order.

    Needed are the columns `gene` and `group`; `source` and `licence` may be absent or empty, further columns are
    not looked at. Former names get the approved symbol; a gene that nobody knows by this name has no `gene` (None)
    and takes part in nothing but the report. Raises InputError naming the line where a gene or group is missing, a
    group has characters that do not belong into a column name, or a gene is in a group twice; and when more than
    half of the genes are unknown.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", restval="")
            header = reader.fieldnames or []
            missing = [column for column in ("gene", "group") if column not in header]
            if missing:
                raise InputError(
                    f"{path}: the column(s) {', '.join(missing)} are missing; a list of gene groups is tab-separated "
                    f"and starts with gene, group, source, licence"
                )
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    rows = []
    seen: dict[tuple[str, str], int] = {}
    for line, row in lines:
        gene, group, source, licence = ((row.get(c) or "").strip() for c in ("gene", "group", "source", "licence"))
        if not gene or not group:
            raise InputError(f"{path}, line {line}: the {'group' if gene else 'gene'} is empty")
        if not _GROUP.fullmatch(group):
            raise InputError(f"{path}, line {line}: group {group!r} may have letters, digits, _ and - only")
        if group == BOTH:
            raise InputError(
                f"{path}, line {line}: {BOTH} is made of the genes that are in both groups; do not list it"
            )
        first = seen.setdefault((gene, group), line)
        if first != line:
            raise InputError(f"{path}, line {line}: {gene} is in {group} already (line {first}); remove one of the two")
        rows.append((gene, group, source, licence))
    if not rows:
        raise InputError(f"{path}: no gene below the header")
    frame = pd.DataFrame(rows, columns=["listed_as", "group", "source", "licence"])
    symbols, _ = (names or gene_names()).canonical(frame["listed_as"].tolist())
    frame.insert(1, "gene", pd.Series(symbols, dtype=object))
    unknown = frame.loc[frame["gene"].isna(), "listed_as"].unique()
    if frame["gene"].isna().mean() > MOST_UNKNOWN:
        raise InputError(
            f"{path}: {len(unknown)} of {frame['listed_as'].nunique()} genes are not known ({', '.join(unknown[:5])}, "
            f"…); symbols of human genes are needed"
        )
    return frame


def resolve(groups: pd.DataFrame, expressed: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which genes of each group a cohort has: `(frame gene, group, source; report)`, sorted by group and gene.

    `groups` is what `read_groups` gives, `expressed` the cohort's canonical symbols (all, or those that a selection
    kept). A gene that is in both the tumour and the microenvironment list goes to `tumour_and_microenvironment` and
    leaves the two; all other groups are kept beside them, so a gene may be in several. The report has a row per group:

    | column | |
    |---|---|
    | listed | names in the file |
    | renamed | of these, former names that got their approved symbol |
    | known | different genes |
    | expressed | of these, in `expressed` |
    | exclusive | of these, left after the genes of both lists went their own way |
    | unknown | names that no gene is known by, joined by spaces |

    Raises InputError when no gene of any group is in `expressed`.
    """
    known = groups.dropna(subset="gene").drop_duplicates(["gene", "group"])  # an old and the new name of one gene
    measured = known[known["gene"].isin(set(expressed))]
    if measured.empty:
        raise InputError(
            f"none of the {known['gene'].nunique()} genes of the gene groups is among the {len(expressed)} measured "
            f"ones ({', '.join(list(expressed)[:5])}, …); are these approved symbols?"
        )
    two = measured[measured["group"].isin((TUMOUR, MICROENVIRONMENT))]
    shared = two[two["gene"].duplicated(keep=False)]
    merged = (
        shared.sort_values(["gene", "group"])
        .groupby("gene")["source"]
        .agg(lambda sources: "; ".join(filter(None, sources)))
    )
    both = pd.DataFrame({"gene": merged.index, "group": BOTH, "source": merged.to_numpy()})
    resolved = pd.concat([measured.drop(index=shared.index)[["gene", "group", "source"]], both])
    resolved = resolved.sort_values(["group", "gene"], ignore_index=True)

    in_both = set.intersection(
        *(set(known.loc[known["group"] == group, "gene"]) for group in (TUMOUR, MICROENVIRONMENT))
    )
    rows = []
    for group in sorted(groups["group"].unique()):
        of_group = groups[groups["group"] == group]
        rows.append(
            {
                "group": group,
                "listed": len(of_group),
                "renamed": int((of_group["gene"].notna() & (of_group["gene"] != of_group["listed_as"])).sum()),
                "known": int((known["group"] == group).sum()),
                "expressed": int((measured["group"] == group).sum()),
                "exclusive": int((resolved["group"] == group).sum()),
                "unknown": " ".join(of_group.loc[of_group["gene"].isna(), "listed_as"]),
            }
        )
    if in_both:
        counts = {"listed": len(in_both), "renamed": 0, "known": len(in_both), "expressed": len(both)}
        rows.append({"group": BOTH, **counts, "exclusive": len(both), "unknown": ""})
    return resolved, pd.DataFrame(rows)


def count_selected(resolved: pd.DataFrame, group_names: Sequence[str], selection: pd.DataFrame) -> list[str]:
    """How many genes of each group a selection (`split, gene, selected`) keeps, as "least–most" over its splits."""
    chosen = selection[selection["selected"]]
    counts = []
    for group in group_names:
        genes = set(resolved.loc[resolved["group"] == group, "gene"])
        per_split = [
            sum(gene in genes for gene in chosen.loc[chosen["split"] == s, "gene"]) for s in selection["split"].unique()
        ]
        least, most = min(per_split), max(per_split)
        counts.append(str(least) if least == most else f"{least}–{most}")
    return counts

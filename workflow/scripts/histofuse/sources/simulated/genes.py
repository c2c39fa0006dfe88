"""The genes of the simulated cohort: real symbols, Ensembl ids and chromosomes in `genes.tsv`.

The first rows are the named genes: those that follow a latent factor (column `factor`), drivers of glioma,
house-keeping and brain genes, and symbols that occur twice. The rest are noise. Ids and symbols are GENCODE's;
positions are good to about a megabase; exon lengths and id versions are made up. Whoever asks for more genes
than the file has gets invented lncRNAs. NCBI gene ids and former symbols (`older_name`, of some of the genes that were
renamed since about 2014) are HGNC's; they are for the study whose annotation is older.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

TABLE = Path(__file__).with_name("genes.tsv")
LAST_NAMED = "OBSCN"

# Ends of the short arms (GRCh38 centromeres) of the chromosomes whose arms are gained or lost, base pairs.
CENTROMERE = {
    "chr1": 123_400_000,
    "chr7": 60_100_000,
    "chr9": 45_500_000,
    "chr10": 39_800_000,
    "chr19": 26_200_000,
}


@cache
def _table() -> pd.DataFrame:
    return pd.read_csv(TABLE, sep="\t", keep_default_na=False, dtype={"ncbi_id": str})


def n_named() -> int:
    """Number of genes that are always written: those with a factor, the drivers and the reference genes."""
    return int(_table().index[_table()["gene_name"] == LAST_NAMED][0]) + 1


@cache
def named_symbols() -> frozenset[str]:
    """Symbols of the genes that are always written; the others are noise genes."""
    return frozenset(_table()["gene_name"][: n_named()])


@cache
def gene_catalogue(n_genes: int) -> pd.DataFrame:
    """The first `n_genes` genes in the order of real files (by Ensembl id).

    Columns: gene_id (with version), gene_name, gene_type, chromosome, start, end (bp), exon_length (bp),
    factor ("tumour", "microenvironment" or ""), ncbi_id and older_name (text, "" where there is none).
    """
    table = _table()
    extra = n_genes - len(table)
    if extra > 0:
        number = np.arange(extra)
        start = 1_000_001 + 40_000 * (number // 22)
        invented = pd.DataFrame(
            {
                "gene_id": [f"ENSG00000{900_000 + k}.1" for k in number],
                "gene_name": [f"AL{900_000 + k}.1" for k in number],
                "gene_type": "lncRNA",
                "chromosome": [f"chr{1 + k % 22}" for k in number],
                "start": start,
                "end": start + 5000,
                "exon_length": 400 + 37 * (number % 101),
                "factor": "",
                "ncbi_id": "",
                "older_name": "",
            }
        )
        table = pd.concat([table, invented], ignore_index=True)
    return table.iloc[:n_genes].sort_values("gene_id", ignore_index=True)


def on_arm(genes: pd.DataFrame, arm: str) -> np.ndarray:
    """Mask of the genes on a chromosome arm ("1p", "19q") or a whole chromosome ("7")."""
    chromosome = f"chr{arm.rstrip('pq')}"
    mask = (genes["chromosome"] == chromosome).to_numpy()
    if arm[-1] in "pq":
        short = (genes["start"] < CENTROMERE[chromosome]).to_numpy()
        mask &= short if arm[-1] == "p" else ~short
    return mask

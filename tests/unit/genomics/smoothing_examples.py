"""A small atlas with a programme of genes per class, in memory and as .h5ad."""

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from histofuse.genomics.genes import GeneNames
from histofuse.genomics.smoothing.atlas import Atlas

CLASSES = ["astrocyte", "microglia", "neuron", "podocyte"]


def symbols(genes):
    return [f"G{number:03d}" for number in range(genes)]


def names_of(genes):
    """Canonical names that know `symbols(genes)`, and G000 also as OLD0."""
    columns = ("gene_id", "ncbi_id", "previous", "aliases")
    rows = [dict.fromkeys(columns, "") | {"symbol": name, "gene_type": "protein_coding"} for name in symbols(genes)]
    rows[0] |= {"aliases": "OLD0", "gene_id": "ENSG00000000001"}
    return GeneNames(rows)


def draw_counts(labels, genes, seed):
    """Poisson counts; every class has a tenth of the genes eightfold; depths differ between cells."""
    random = np.random.default_rng(seed)
    base = random.gamma(0.6, 2.0, genes)
    fold = np.ones((len(CLASSES), genes))
    for k in range(len(CLASSES)):
        fold[k, random.choice(genes, genes // 10, replace=False)] = 8
    depth = random.lognormal(0, 0.4, len(labels))
    return random.poisson(base * fold[labels] * depth[:, None])


def atlas(cells=60, genes=80, donors=6, seed=0, held_out=("D0",)):
    """An Atlas of `cells` cells per class; donors take turns, so every class has all of them."""
    labels = np.repeat(np.arange(len(CLASSES)), cells)
    owner = np.array([f"D{number % donors}" for number in range(len(labels))])
    counts = draw_counts(labels, genes, seed).astype(np.float32)
    library = counts.sum(axis=1, dtype=np.float64) + 7  # seven more reads, of genes without a canonical symbol
    held = np.isin(owner, held_out)
    return Atlas(csr_matrix(counts), symbols(genes), library, labels, list(CLASSES), owner, held)


def annotated(cells=20, genes=30, donors=5, seed=0):
    """The same as an AnnData: obs cell_type and donor_id, X whole counts as CSR."""
    labels = np.repeat(np.arange(len(CLASSES)), cells)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(CLASSES)[labels]),
            "donor_id": [f"D{number % donors}" for number in range(len(labels))],
        },
        index=[f"C{number}" for number in range(len(labels))],
    )
    counts = csr_matrix(draw_counts(labels, genes, seed).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=symbols(genes)))

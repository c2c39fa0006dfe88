"""The 17 cell types of the simulated atlas and the genes that mark them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from histofuse.sources.simulated.genes import named_symbols

# Genes that follow a latent factor in the bulk cohorts mark one type each, so that the two factors look like two
# changes of composition: more progenitors and cycling cells, or more immune, stromal and vascular cells.
MARKERS = {
    "neuron": "SNAP25 SYT1 RBFOX3 GAD1 SLC17A7 NEFL",
    "oligodendrocyte": "MBP PLP1 MOG",
    "astrocyte": "GFAP S100B AQP4 SLC1A3 APOE CLU EGFR CHI3L1 SOX9 MDM4 MDM2 MET IGFBP2",
    "oligodendrocyte precursor cell": "OLIG2 PDGFRA ASCL1 DLL3 SOX4 BCAN PTPRZ1 PDGFA CCND1 CDK4 NOTCH1 CCND2",
    "radial glial cell": "NES PROM1 SOX2 CD44 CDK6 MYC MYCN HMGA2 TERT EZH2 BRCA1 RAD51 E2F1",
    "neural progenitor cell": (
        "MKI67 TOP2A CCNB1 CDK1 AURKA AURKB BUB1 PLK1 FOXM1 PCNA MCM2 MCM3 RRM2 TYMS UBE2C BIRC5 CENPF KIF11 TPX2"
        " CHEK1 MELK TTK ZWINT CCNA2 CDC20 NUSAP1 ASPM RACGAP1"
    ),
    "microglial cell": "AIF1 CSF1R TYROBP C1QA C1QB C1QC P2RY12 TMEM119 CX3CR1 TREM2 ITGAM",
    "macrophage": "CD68 CD163 MRC1 MARCO SPP1 LGALS3 IL10 IL1B HAVCR2 CCL2 LYVE1",
    "dendritic cell": "HLA-DRA HLA-DRB1 ITGAX CD14 CXCL10 CD274",
    "T cell": "CD3E CD3D CD4 CD8A CTLA4 FOXP3 LAG3 PDCD1",
    "natural killer cell": "GZMB GZMA PRF1 NKG7 CCL5",
    "B cell": "CD74 PTPRC CXCR4",
    "fibroblast": "COL1A1 COL1A2 COL3A1 FN1 TIMP1 MMP2 LOX POSTN TGFB1 TGFBI LGALS1 IL6 SERPINE1",
    "pericyte": "ACTA2 HIF1A VEGFA CA9 ADM MMP9 CXCL8",
    "endothelial cell": "PECAM1 VWF CDH5 KDR ANGPT2 SLC2A1",
    "epithelial cell of proximal tubule": "",
    "kidney loop of Henle epithelial cell": "",
}
TYPES = tuple(MARKERS)
SHARE_OF_NOISE_GENES = 0.5  # that mark a type, each one drawn by the gene
RISE = (2.5, 0.5)  # log2 of a marker in its own type: mean and spread over the genes
FALL = -1.5  # log2 of a marker in the other types


@cache
def marked_type() -> dict[str, str]:
    """The type that each named marker marks."""
    return {gene: name for name, genes in MARKERS.items() for gene in genes.split()}


def marker_effects(genes: pd.DataFrame) -> np.ndarray:
    """Change of log2 abundance by type, [types, genes]; it depends on the gene alone.

    `genes` has the columns gene_id and gene_name. Genes without a mark are 0 everywhere.
    """
    effects = np.zeros((len(TYPES), len(genes)))
    named = marked_type()
    for k, (gene_id, symbol) in enumerate(zip(genes["gene_id"], genes["gene_name"])):
        rng = np.random.default_rng([int(gene_id.split(".")[0].removeprefix("ENSG")), 3])
        chosen, marks, rise = int(rng.integers(len(TYPES))), rng.random() < SHARE_OF_NOISE_GENES, rng.normal(*RISE)
        if symbol in named:
            chosen = TYPES.index(named[symbol])
        elif symbol in named_symbols() or not marks:
            continue
        effects[:, k] = FALL
        effects[chosen, k] = rise
    return effects

"""Gene expression as GDC's augmented STAR counts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from histofuse.sources.simulated.cohort import Case, generator
from histofuse.sources.simulated.genes import gene_catalogue
from histofuse.sources.simulated.settings import Settings

COLUMNS = (
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
# log2 expression changes by LOADING (mean and spread over the genes) per unit of the factor as genomics sees
# it, beside noise of NOISE per gene and case. A fifth of a factor's genes go down with it. The house-keeping
# genes are so abundant that the sum of a small file stays put, as the sum over a whole transcriptome does.
LOADING = (0.65, 0.2)
SHARE_DOWN = 0.2
NOISE = 0.55
SEX_GENES = {"female": ("XIST",), "male": ("RPS4Y1", "DDX3Y", "KDM5D", "UTY", "USP9Y", "EIF1AY")}
HOUSE_KEEPING = ("ACTB", "B2M", "EEF1A1", "GAPDH", "RPL13A", "TUBB")
HOUSE_KEEPING_LEVEL = 10.5  # log2 abundance; other genes have 3.5 on average
DEPTH = 1200.0  # mean counts per gene, so that the size of a file does not change its noise
DISPERSION = 0.05


@cache
def base_and_loadings(n_genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base log2 abundance and loadings on both factors, [genes] each; drawn by gene, so the same in any cohort."""
    genes = gene_catalogue(n_genes)
    base, loading = np.empty(n_genes), np.empty(n_genes)
    for k, gene_id in enumerate(genes["gene_id"]):
        rng = np.random.default_rng(int(gene_id.split(".")[0].removeprefix("ENSG")))
        base[k] = rng.normal(3.5, 1.8)
        sign = -1.0 if rng.random() < SHARE_DOWN else 1.0
        loading[k] = sign * max(0.1, rng.normal(*LOADING))
    base[genes["gene_name"].isin(HOUSE_KEEPING)] = HOUSE_KEEPING_LEVEL
    factor = genes["factor"].to_numpy()
    return (
        base,
        np.where(factor == "tumour", loading, 0.0),
        np.where(factor == "microenvironment", loading, 0.0),
    )


def without_genes_of_the_other_sex(log2: np.ndarray, genes: pd.DataFrame, sex: str) -> np.ndarray:
    """Log2 abundances [genes] with those silenced that only the other sex expresses."""
    other_sex = SEX_GENES["male" if sex == "female" else "female"]
    return np.where(genes["gene_name"].isin(other_sex), -8.0, log2)


def star_counts(case: Case, settings: Settings) -> str:
    """Text of `*.rna_seq.augmented_star_gene_counts.tsv`.

    TPM, FPKM and FPKM-UQ are GDC's formulas on the unstranded counts, with the 4 decimals that GDC prints.
    """
    rng = generator(settings, case.number, "expression")
    genes = gene_catalogue(settings.genes)
    base, on_tumour, on_microenvironment = base_and_loadings(settings.genes)
    seen = case.seen["genomics"]
    log2 = base + on_tumour * seen["tumour"] + on_microenvironment * seen["microenvironment"]
    noise = np.where(genes["gene_name"].isin(HOUSE_KEEPING), 0.2, NOISE)
    log2 += noise * rng.standard_normal(len(genes))
    log2 = without_genes_of_the_other_sex(log2, genes, case.sex)

    length = genes["exon_length"].to_numpy()
    weight = 2.0**log2 * length
    expected = weight / weight.sum() * len(genes) * DEPTH * 2.0 ** rng.normal(0.0, 0.4)
    counts = rng.poisson(expected * rng.gamma(1 / DISPERSION, DISPERSION, len(genes)))
    first = rng.binomial(counts, 0.5)

    per_kilobase = counts / length * 1e3
    coding = ((genes["gene_type"] == "protein_coding") & ~genes["chromosome"].isin(["chrX", "chrY"])).to_numpy()
    fpkm = per_kilobase * 1e6 / max(1, counts[(genes["gene_type"] == "protein_coding").to_numpy()].sum())
    upper_quartile = max(1.0, float(np.quantile(counts[coding], 0.75)))
    body = pd.DataFrame(
        {
            "gene_id": genes["gene_id"],
            "gene_name": genes["gene_name"],
            "gene_type": genes["gene_type"],
            "unstranded": counts,
            "stranded_first": first,
            "stranded_second": counts - first,
            "tpm_unstranded": per_kilobase / max(per_kilobase.sum(), 1e-9) * 1e6,
            "fpkm_unstranded": fpkm,
            "fpkm_uq_unstranded": per_kilobase * 1e6 / (upper_quartile * coding.sum()),
        }
    )
    total = int(counts.sum())
    summary = ""
    for name, share in (("unmapped", 0.05), ("multimapping", 0.12), ("noFeature", 0.04), ("ambiguous", 0.06)):
        value = int(rng.poisson(share * total))
        summary += f"N_{name}\t\t\t{value}\t{value}\t{value}\t\t\t\n"
    header = "# gene-model: GENCODE v36\n" + "\t".join(COLUMNS) + "\n" + summary
    return header + body.to_csv(sep="\t", header=False, index=False, float_format="%.4f", lineterminator="\n")

"""Somatic mutations as GDC's masked MAF, copy number as GDC's ASCAT3 gene-level table."""

from __future__ import annotations

import gzip

import numpy as np

from histofuse.sources.simulated.cohort import Case, generator, stable_uuid
from histofuse.sources.simulated.genes import gene_catalogue, on_arm
from histofuse.sources.simulated.maf_columns import MAF_COLUMNS
from histofuse.sources.simulated.settings import Settings

COPY_NUMBER_COLUMNS = (
    "gene_id",
    "gene_name",
    "chromosome",
    "start",
    "end",
    "copy_number",
    "min_copy_number",
    "max_copy_number",
)
PASSENGERS = 18.0  # mean number of mutations that mean nothing
PASSENGER_CLASSES = {
    "Missense_Mutation": 0.62,
    "Silent": 0.24,
    "Nonsense_Mutation": 0.05,
    "Frame_Shift_Del": 0.03,
    "Splice_Site": 0.02,
    "3'UTR": 0.02,
    "Intron": 0.02,
}
# The usual protein change and place (GRCh38) of a driver; other genes get a random one.
HOTSPOTS = {
    "IDH1": ("chr2", 208_248_388, "C", "T", "p.R132H"),
    "TP53": ("chr17", 7_673_803, "G", "A", "p.R273C"),
    "BRAF": ("chr7", 140_753_336, "A", "T", "p.V600E"),
}
DOUBLED_GENOME = 0.1  # share of tumours with ploidy 4


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def driver_probabilities(case: Case) -> dict[str, float]:
    """Chance of a mutation per driver gene, from the labels and the factors as genomics sees them."""
    wildtype, astrocytoma = case.idh == "wildtype", case.idh == "mutant" and not case.codel
    tumour, microenvironment = case.seen["genomics"]["tumour"], case.seen["genomics"]["microenvironment"]
    return {
        "IDH1": 0.0 if wildtype else 0.97,
        "TP53": 0.9 if astrocytoma else 0.3 * wildtype,
        "ATRX": 0.75 if astrocytoma else 0.03 * wildtype,
        "CIC": 0.6 * case.codel,
        "FUBP1": 0.3 * case.codel,
        "NOTCH1": 0.25 * case.codel,
        "EGFR": 0.5 * _sigmoid(tumour) * wildtype,
        "PTEN": 0.5 * _sigmoid(1.5 * tumour) * wildtype,
        "RB1": 0.3 * _sigmoid(tumour - 1.0),
        "PIK3CA": 0.1,
        "PIK3R1": 0.25 * _sigmoid(tumour - 1.0),
        "NF1": 0.35 * _sigmoid(microenvironment - 1.0),
    }


def copy_number_probabilities(case: Case) -> dict[str, float]:
    """Chance per copy-number event, from the labels and the tumour factor as genomics sees it."""
    wildtype, tumour = case.idh == "wildtype", case.seen["genomics"]["tumour"]
    # Homozygous loss of CDKN2A makes an astrocytoma grade 4 (WHO 2021), so it cannot occur in a lower grade.
    may_lose_cdkn2a = wildtype or (not case.codel and case.grade == 4)
    return {
        "chr7 gain": 0.85 if wildtype else 0.1,
        "chr10 loss": 0.85 if wildtype else 0.05,
        "EGFR amplification": 0.8 * _sigmoid(1.2 * tumour - 1.0) * wildtype,
        "CDKN2A deletion": 0.8 * _sigmoid(1.2 * tumour) * may_lose_cdkn2a,
        "PDGFRA amplification": 0.35 * _sigmoid(tumour - 1.5),
        "CDK4 amplification": 0.35 * _sigmoid(tumour - 1.5),
        "MDM4 amplification": 0.15 * wildtype,
    }


def masked_mutations(case: Case, settings: Settings) -> bytes:
    """Bytes of `*.wxs.aliquot_ensemble_masked.maf.gz`: comment lines, GDC's columns, one row per variant."""
    rng = generator(settings, case.number, "alterations")
    genes = gene_catalogue(settings.genes)
    genes = genes[genes["gene_type"] == "protein_coding"].drop_duplicates("gene_name").set_index("gene_name")
    hits = [
        (gene, "Missense_Mutation" if gene in HOTSPOTS else "Nonsense_Mutation")
        for gene, chance in driver_probabilities(case).items()
        if rng.random() < chance
    ]
    n_passengers = rng.poisson(PASSENGERS)
    names = genes.index.to_numpy()[rng.integers(len(genes), size=n_passengers)]
    classes = rng.choice(list(PASSENGER_CLASSES), size=n_passengers, p=list(PASSENGER_CLASSES.values()))
    # A chance hit on a driver would read as the real thing.
    drivers = set(driver_probabilities(case)) | {"IDH2", "BRAF"}
    hits += [(str(n), str(c)) for n, c in zip(names, classes, strict=True) if n not in drivers]

    tumour_barcode, normal_barcode = case.tumour_sample, case.normal_sample
    lines = []
    for gene, kind in hits:
        lines.append(_variant(gene, kind, genes.loc[gene], rng))
        lines[-1] |= {
            "Tumor_Sample_Barcode": tumour_barcode,
            "Matched_Norm_Sample_Barcode": normal_barcode,
            "Tumor_Sample_UUID": stable_uuid(settings, tumour_barcode),
            "Matched_Norm_Sample_UUID": stable_uuid(settings, normal_barcode),
            "case_id": stable_uuid(settings, case.case_id, "case"),
        }
    lines.sort(key=lambda row: (row["Chromosome"], row["Start_Position"], row["Hugo_Symbol"]))
    text = [
        "#version gdc-1.0.0",
        "#filedate 20240101",
        "#annotation.spec gdc-2.0.0-aliquot-merged-masked",
        "#n.analyzed.samples 1",
        f"#tumor.aliquots.submitter_id {tumour_barcode}",
        "\t".join(MAF_COLUMNS),
        *("\t".join(str(row.get(column, "")) for column in MAF_COLUMNS) for row in lines),
    ]
    return gzip.compress(("\n".join(text) + "\n").encode(), compresslevel=6, mtime=0)


def _variant(gene: str, kind: str, place, rng: np.random.Generator) -> dict:
    """The fields of one variant that readers use; the others stay empty, as many are in real files."""
    reference, alternative = (str(base) for base in rng.permutation(list("ACGT"))[:2])
    start = int(rng.integers(place["start"], place["end"]))
    residue = int(rng.integers(2, 400))
    change = f"p.{rng.choice(list('ARNDCQEGHILKMFPSTWYV'))}{residue}"
    change += {"Nonsense_Mutation": "*", "Silent": "=", "Frame_Shift_Del": "fs"}.get(kind, "X")
    chromosome = place["chromosome"]
    if gene in HOTSPOTS:
        chromosome, start, reference, alternative, change = HOTSPOTS[gene]
    if kind == "Frame_Shift_Del":
        alternative = "-"
    depth, alternative_reads = int(rng.integers(60, 200)), int(rng.integers(12, 50))
    return {
        "Hugo_Symbol": gene,
        "Center": "SIMULATED",
        "NCBI_Build": "GRCh38",
        "Chromosome": chromosome,
        "Start_Position": start,
        "End_Position": start,
        "Strand": "+",
        "Variant_Classification": kind,
        "Variant_Type": "DEL" if kind == "Frame_Shift_Del" else "SNP",
        "Reference_Allele": reference,
        "Tumor_Seq_Allele1": reference,
        "Tumor_Seq_Allele2": alternative,
        "Mutation_Status": "Somatic",
        "HGVSp_Short": change if kind not in {"3'UTR", "Intron"} else "",
        "t_depth": depth,
        "t_ref_count": depth - alternative_reads,
        "t_alt_count": alternative_reads,
        "n_depth": depth,
        "Allele": alternative,
        "Gene": place["gene_id"].split(".")[0],
        "Feature_type": "Transcript",
        "SYMBOL": gene,
        "BIOTYPE": "protein_coding",
        "FILTER": "PASS",
    }


def gene_level_copy_number(case: Case, settings: Settings) -> str:
    """Text of `*.ascat3.gene_level_copy_number.v36.tsv`: whole copies; empty on chrY, which has no segment."""
    rng = generator(settings, case.number, "alterations")
    rng = rng.spawn(1)[0]  # apart from the mutations, so that either file can change alone
    genes = gene_catalogue(settings.genes)
    ploidy = 4 if rng.random() < DOUBLED_GENOME else 2
    copies = np.full(len(genes), ploidy)
    happens = {event: rng.random() < chance for event, chance in copy_number_probabilities(case).items()}
    if case.codel:
        copies[on_arm(genes, "1p") | on_arm(genes, "19q")] = ploidy // 2
    if happens["chr7 gain"]:
        copies[on_arm(genes, "7")] = ploidy + 1
    if happens["chr10 loss"]:
        copies[on_arm(genes, "10")] = ploidy // 2
    for chromosome in rng.choice([2, 3, 5, 6, 8, 11, 13, 14, 16, 18, 20, 21, 22], size=rng.poisson(1.0)):
        copies[on_arm(genes, str(chromosome))] = ploidy + int(rng.choice([-1, 1]))
    name = genes["gene_name"]
    for gene in ("EGFR", "PDGFRA", "CDK4", "MDM4"):
        if happens[f"{gene} amplification"]:
            copies[(name == gene).to_numpy()] = ploidy + int(rng.integers(6, 40))
    if happens["CDKN2A deletion"]:
        copies[name.isin(["CDKN2A", "CDKN2B", "MTAP"]).to_numpy()] = 0
    on_x = (genes["chromosome"] == "chrX").to_numpy()
    if case.sex == "male":
        copies[on_x] = np.maximum(1, copies[on_x] // 2)
    silent = (genes["chromosome"] == "chrY").to_numpy()
    lines = ["\t".join(COPY_NUMBER_COLUMNS)]
    rows = genes[["gene_id", "gene_name", "chromosome", "start", "end"]].itertuples(index=False)
    for row, count, empty in zip(rows, copies, silent, strict=True):
        value = "" if empty else str(int(count))
        lines.append("\t".join([*map(str, row), value, value, value]))
    return "\n".join(lines) + "\n"

"""A simulated IvyGAP: glioblastomas cut into anatomical structures, several RNA samples each, in the Allen files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd

from histofuse.sources.simulated.alterations import copy_number_probabilities
from histofuse.sources.simulated.cohort import Case, draw_case, generator
from histofuse.sources.simulated.expression import (
    DEPTH,
    DISPERSION,
    HOUSE_KEEPING,
    NOISE,
    base_and_loadings,
    without_genes_of_the_other_sex,
)
from histofuse.sources.simulated.genes import gene_catalogue
from histofuse.sources.simulated.settings import Settings

# Tumours are numbered after the cases of the other study, so that one seed never gives both the same patients.
FIRST_NUMBER = 10_000
ARCHIVE = "gene_expression_matrix_2014-11-25.zip"
RELEASED = (2014, 11, 25, 0, 0, 0)
ANATOMIC, STEM_CELLS = "Anatomic Structures RNA Seq", "Cancer Stem Cells RNA Seq"
IN_SITU = {ANATOMIC: "Anatomic Structures ISH Survey", STEM_CELLS: "Cancer Stem Cells ISH Survey"}
SHARE_ANATOMIC = 1 / 3  # of tumours; the others were sampled around clusters of cells with a stem cell marker
MARKERS = ("CD44", "DANCR", "HIF1A", "ID1", "ID2", "IGFBP2", "ITGA6", "MET", "MYC", "PDPN", "POSTN", "PROM1", "TGFBR2")
# A gene differs from the other study by this (sd, log2), in all samples alike: other kit, other annotation.
PLATFORM = 0.4
# The noise of a gene is shared by the samples of a tumour but for this part (sd, log2).
SAMPLE_NOISE = 0.35
BRAIN_GENES = "AQP4 CLU GAD1 GFAP MBP MOG NEFL PLP1 RBFOX3 S100B SLC17A7 SLC1A3 SNAP25 SYT1"
SECTIONS_BETWEEN = 4  # stained with H&E, one in so many sections of a sub-block
SHARE_MISSING, SHARE_UNKNOWN = 0.06, 0.02  # of genes: not in the annotation; only in it, under names that went


@dataclass(frozen=True)
class Structure:
    """A micro-dissected structure: a sample of it shows each factor as `slope` · view + `shift`.

    `brain` is how much more of the genes of normal brain there is, log2.
    """

    name: str
    colour: str
    number: int
    tumour: tuple[float, float]
    microenvironment: tuple[float, float]
    brain: float = 0.0


STRUCTURES = {
    "LE": Structure("Leading Edge", "218FA5", 1, (0.4, -1.0), (0.6, -0.4), 2.0),
    "IT": Structure("Infiltrating Tumor", "D104D0", 2, (0.7, -0.4), (0.8, -0.2), 1.0),
    "CT": Structure("Cellular Tumor", "05D004", 3, (1.0, 0.0), (1.0, 0.0)),
    "CTpnz": Structure("Perinecrotic zone", "43D1F8", 4, (0.8, 0.0), (1.1, 0.5)),
    "CTpan": Structure("Pseudopalisading cells around necrosis", "05D0AA", 5, (0.9, 0.0), (1.1, 0.5)),
    "CThbv": Structure("Hyperplastic blood vessels in cellular tumor", "FF6600", 6, (0.7, -0.2), (1.1, 0.7)),
    "CTmvp": Structure("Microvascular proliferation", "FF3300", 7, (0.6, -0.3), (1.1, 0.9)),
}
# How common the structures are on a sub-block: columns of normalized areas.
AREAS = {"le": 0.3, "lehbv": 0.02, "it": 0.4, "ithbv": 0.02, "ct": 5.0, "ctpnz": 1.0, "ctpnn": 0.1, "ctpan": 0.3}
AREAS |= {"cthbv": 0.8, "ctmvp": 0.2, "ctne": 1.5}


@dataclass(frozen=True)
class SubBlock:
    number: int
    name: str
    block_number: int
    block_name: str
    study: str


@dataclass(frozen=True)
class Sample:
    """One RNA sample. `well` names its column of the FPKM table, `by` how the structure was found."""

    well: int
    tumour: Case
    sub_block: SubBlock
    structure: str
    by: str

    @property
    def abbreviation(self) -> str:
        return f"{self.structure}-{self.by}"

    @property
    def structure_name(self) -> str:
        how = "by reference histology"
        if self.by != "reference-histology":
            level = "low" if self.by.startswith("control-") else "high"
            how = f"by {level} expression of gene {self.by.removeprefix('control-')}"
        return f"{STRUCTURES[self.structure].name} sampled {how}"

    @property
    def structure_id(self) -> int:
        place = 0 if self.by == "reference-histology" else 1 + MARKERS.index(self.by.removeprefix("control-"))
        return 309_780_000 + 100 * STRUCTURES[self.structure].number + 2 * place + self.by.startswith("control-")


@dataclass(frozen=True)
class Image:
    """An H&E section. `number` is its id at the Allen Institute."""

    number: int
    sub_block: SubBlock
    section: int

    @property
    def slide_id(self) -> str:
        return f"{self.sub_block.name}_{self.number}"


def draw_tumours(settings: Settings) -> list[Case]:
    """The IDH wild-type cases among those of the factor model, all of grade 4, named W1-1-1, W2-1-1 and so on.

    `has["expression"]` is false for a share `missing` of them. Tumour k does not depend on how many there are.
    """
    tumours: list[Case] = []
    number = FIRST_NUMBER
    while len(tumours) < settings.cases:
        case = draw_case(settings, number)
        number += 1
        if case.idh == "wildtype":
            name = f"W{len(tumours) + 1}-1-1"
            has = {"expression": all(case.has.values()), "alterations": False, "slides": settings.slides_per_case > 0}
            tumour = replace(case, case_id=name, grade=4, has=has)
            tumours.append(replace(tumour, slides=tuple(image.slide_id for image in images(tumour, settings))))
    return tumours


def survival_days(tumour: Case) -> int | None:
    """What the public table says of a tumour: days to death, nothing where the patient was alive at the freeze."""
    return tumour.time_days if tumour.event else None


def sub_blocks(tumour: Case, settings: Settings) -> list[SubBlock]:
    """One or two blocks of up to four sub-blocks; the first of each block is sequenced, if the tumour is."""
    rng = generator(settings, tumour.number, "blocks")
    place = tumour.number - FIRST_NUMBER
    study = ANATOMIC if rng.random() < SHARE_ANATOMIC else STEM_CELLS
    found = []
    for letter in sorted(rng.choice(list("ABCD"), size=rng.integers(1, 3), replace=False)):
        block = f"{tumour.case_id}-{letter}.{rng.integers(1, 4)}"
        block_number = 703_000 + 10 * place + "ABCD".index(letter)
        for k in range(1, int(rng.integers(2, 5)) + 1):
            sequenced = k == 1 and tumour.has["expression"]
            number = 287_000_000 + 100 * place + 10 * "ABCD".index(letter) + k
            kind = study if sequenced else IN_SITU[study]
            found.append(SubBlock(number, f"{block}.{k:02d}", block_number, block, kind))
    return found


def samples(tumour: Case, settings: Settings) -> list[Sample]:
    """The RNA samples of a tumour: one or two of most structures, or around the clusters of one or two markers.

    Cellular tumour is always among them. Empty for a tumour without RNA sequencing.
    """
    if not tumour.has["expression"]:
        return []
    rng = generator(settings, tumour.number, "samples")
    places = [block for block in sub_blocks(tumour, settings) if block.study in IN_SITU]
    kinds = []
    if places[0].study == ANATOMIC:
        for structure in ("LE", "IT", "CT", "CTpan", "CTmvp"):
            if structure == "CT" or rng.random() < 0.8:
                kinds += [(structure, "reference-histology")] * int(rng.integers(1, 3))
    else:
        for marker in rng.choice(MARKERS, size=rng.integers(1, 3), replace=False):
            cluster = str(rng.choice(["CT", "CTpnz", "CTpan", "CThbv"]))
            kinds += [("CT", f"control-{marker}"), (cluster, str(marker))]
    first = 300_000_000 + 100 * (tumour.number - FIRST_NUMBER)
    return [
        Sample(first + k, tumour, places[int(rng.integers(len(places)))], structure, by)
        for k, (structure, by) in enumerate(kinds)
    ]


def images(tumour: Case, settings: Settings) -> list[Image]:
    """The H&E images of a tumour, 1 to `slides_per_case` of them, spread over its sub-blocks; none if that is 0."""
    if not tumour.has["slides"]:
        return []
    blocks = sub_blocks(tumour, settings)
    number = int(generator(settings, tumour.number, "slides").integers(1, settings.slides_per_case + 1))
    first = 310_000_000 + 100 * (tumour.number - FIRST_NUMBER)
    return [Image(first + k, blocks[k % len(blocks)], 1 + SECTIONS_BETWEEN * (k // len(blocks))) for k in range(number)]


@cache
def annotation(n_genes: int) -> pd.DataFrame:
    """The genes of the study, in the order of its files (by NCBI gene id, as RefSeq's annotation is).

    Columns: row (of `gene_catalogue`, -1 for a gene that only this study has), gene_id (the Allen Institute's),
    chromosome, gene_entrez_id, gene_symbol (an older one, where the gene was renamed since), gene_name.
    Of the catalogue it lacks what RefSeq has no id for, repeated symbols, and a few genes by chance.
    """
    genes = gene_catalogue(n_genes)
    luck = np.array([_of_gene(gene_id, 1).random() for gene_id in genes["gene_id"]])
    kept = (genes["ncbi_id"] != "") & ~genes["gene_name"].duplicated()
    kept &= (luck > SHARE_MISSING) | genes["gene_name"].isin(HOUSE_KEEPING)
    table = genes[kept].assign(row=np.flatnonzero(kept))
    table["gene_symbol"] = table["older_name"].where(table["older_name"] != "", table["gene_name"])
    table["gene_entrez_id"] = table["ncbi_id"].astype(int)
    table["chromosome"] = table["chromosome"].str.removeprefix("chr")
    withdrawn = 100_900_001 + 37 * np.arange(max(1, round(SHARE_UNKNOWN * n_genes)))
    unknown = pd.DataFrame(
        {
            "row": -1,
            "gene_symbol": [f"LOC{number}" for number in withdrawn],
            "gene_entrez_id": withdrawn,
            "chromosome": [str(1 + k % 22) for k in range(len(withdrawn))],
        }
    )
    table = pd.concat([table, unknown], ignore_index=True).sort_values("gene_entrez_id", ignore_index=True)
    table["gene_id"] = 499_300_000 + np.arange(len(table))
    table["gene_name"] = "simulated gene " + table["gene_symbol"]
    return table[["row", "gene_id", "chromosome", "gene_entrez_id", "gene_symbol", "gene_name"]]


def _of_gene(gene_id: str, purpose: int) -> np.random.Generator:
    return np.random.default_rng([int(gene_id.split(".")[0].removeprefix("ENSG")), purpose])


@cache
def _platform(n_genes: int) -> np.ndarray:
    return np.array([_of_gene(gene_id, 2).normal(0, PLATFORM) for gene_id in gene_catalogue(n_genes)["gene_id"]])


def fpkm(tumour: Case, settings: Settings) -> np.ndarray:
    """FPKM of the samples of a tumour, [samples, genes of `annotation`].

    Abundances, counts and their noise are those of the other study; a sample shows the factors through its structure.
    """
    genes, table = gene_catalogue(settings.genes), annotation(settings.genes)
    base, on_tumour, on_microenvironment = base_and_loadings(settings.genes)
    rng = generator(settings, tumour.number, "expression")
    steady = genes["gene_name"].isin(HOUSE_KEEPING).to_numpy()
    in_brain = genes["gene_name"].isin(BRAIN_GENES.split()).to_numpy()
    shared = np.where(steady, 0.15, (NOISE**2 - SAMPLE_NOISE**2) ** 0.5) * rng.standard_normal(len(genes))
    shared += base + np.where(steady, 0, _platform(settings.genes))
    seen = tumour.seen["genomics"]
    length, row = genes["exon_length"].to_numpy(), table["row"].to_numpy()
    rows = []
    for sample in samples(tumour, settings):
        structure = STRUCTURES[sample.structure]
        views = {
            factor: slope * seen[factor] + shift
            for factor, (slope, shift) in (
                ("tumour", structure.tumour),
                ("microenvironment", structure.microenvironment),
            )
        }
        log2 = shared + on_tumour * views["tumour"] + on_microenvironment * views["microenvironment"]
        log2 += structure.brain * in_brain
        log2 += np.where(steady, 0.15, SAMPLE_NOISE) * rng.standard_normal(len(genes))
        log2 = without_genes_of_the_other_sex(log2, genes, tumour.sex)
        weight = 2.0**log2 * length
        expected = weight / weight.sum() * len(genes) * DEPTH * 2.0 ** rng.normal(0.0, 0.4)
        counts = rng.poisson(expected * rng.gamma(1 / DISPERSION, DISPERSION, len(genes)))
        rate = counts / length * 1e9 / counts.sum()
        own = 10 ** rng.normal(0, 1, len(row))  # of the genes that only this study has
        rows.append(np.where(row >= 0, rate[row], own))
    return np.array(rows).reshape(-1, len(table))


def expression_archive(tumours: Sequence[Case], settings: Settings) -> bytes:
    """Bytes of the zip: fpkm_table.csv (genes × samples), rows-genes.csv, columns-samples.csv, README.txt."""
    table = annotation(settings.genes)
    taken = [sample for tumour in tumours for sample in samples(tumour, settings)]
    values = np.concatenate([fpkm(tumour, settings) for tumour in tumours])
    # The public file goes through the structures one after the other, not through the tumours.
    order = sorted(range(len(taken)), key=lambda k: (STRUCTURES[taken[k].structure].number, taken[k].well))
    matrix = pd.DataFrame(values[order].T, columns=[taken[k].well for k in order])
    matrix.insert(0, "gene_id\\rna_well_id", table["gene_id"])
    members = {
        "columns-samples.csv": _csv(_sample_columns(taken[k]) for k in order),
        "fpkm_table.csv": matrix.to_csv(index=False, float_format="%.4f", lineterminator="\n"),
        "README.txt": (
            "A simulated study in the layout of the Ivy Glioblastoma Atlas Project's RNA sequencing.\n"
            "fpkm_table.csv: FPKM, a row per gene (gene_id of rows-genes.csv), a column per sample (rna_well_id of\n"
            "columns-samples.csv). Nothing in it was measured.\n"
        ),
        "rows-genes.csv": table.drop(columns="row").to_csv(index=False, lineterminator="\n"),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            entry = zipfile.ZipInfo(name, RELEASED)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return buffer.getvalue()


def _csv(rows: Iterator[dict] | Sequence[dict]) -> str:
    return pd.DataFrame(list(rows)).to_csv(index=False, lineterminator="\n")


def _tumour_id(tumour: Case) -> int:
    """Another number than the donor's; only the table of samples has both."""
    return 705_000 + 10 * (tumour.number - FIRST_NUMBER)


def _donor_id(tumour: Case) -> int:
    return 12_000 + (tumour.number - FIRST_NUMBER)


def _sample_columns(sample: Sample) -> dict:
    return {
        "tumor_id": _tumour_id(sample.tumour),
        "tumor_name": sample.tumour.case_id,
        "structure_id": sample.structure_id,
        "structure_abbreviation": sample.abbreviation,
        "structure_color": STRUCTURES[sample.structure].colour,
        "structure_name": sample.structure_name,
        "block_id": sample.sub_block.block_number,
        "block_name": sample.sub_block.block_name,
        "specimen_id": sample.sub_block.number,
        "specimen_name": sample.sub_block.name,
        "rna_well_id": sample.well,
        "polygon_id": sample.well - 1_500_000,
    }


def sample_details(tumours: Sequence[Case], settings: Settings) -> str:
    """Text of rna_seq_samples_details.csv, which alone has both the donor's and the tumour's number."""
    rows = []
    for tumour in tumours:
        for sample in samples(tumour, settings):
            columns = _sample_columns(sample)
            columns["structure_acronym"] = columns.pop("structure_abbreviation")
            columns.pop("rna_well_id")
            first = {"sample_id": sample.well, "donor_id": _donor_id(tumour), "study_name": sample.sub_block.study}
            rows.append(first | columns | {"sub_block_id": sample.sub_block.number})
    return _csv(rows)


def tumour_details(tumours: Sequence[Case], settings: Settings) -> str:
    """Text of tumor_details.csv: one row per tumour; survival_days without any word on censoring."""
    return _csv(_clinical(tumour, settings) for tumour in tumours)


def sub_block_details(tumours: Sequence[Case], settings: Settings) -> str:
    """Text of sub_block_details.csv: the tumour's columns, the sub-block, and its areas by structure."""
    rows = []
    for tumour in tumours:
        clinical = _clinical(tumour, settings)
        rng = generator(settings, tumour.number, "blocks").spawn(1)[0]
        for block in sub_blocks(tumour, settings):
            area = rng.gamma(list(AREAS.values()))
            area /= area.sum()
            address = f"http://glioblastoma.alleninstitute.org/ish/specimen/show/{block.number}"
            row = {"sub_block_id": block.number, "sub_block_name": block.name, "study_name": block.study}
            row |= {"specimen_page_link": address, "data_set_id": block.number + 5_000_000}
            row |= {
                f"normalized_area_{name}": f"{value:.6g}" if value > 0.001 else ""
                for name, value in zip(AREAS, area, strict=True)
            }
            rows.append(clinical | row)
    return _csv(rows)


def _clinical(tumour: Case, settings: Settings) -> dict:
    rng = generator(settings, tumour.number, "clinical").spawn(1)[0]
    high = {factor: tumour.seen["genomics"][factor] > 0.5 for factor in ("tumour", "microenvironment")}
    subtypes = [name for name, yes in (("Classical", high["tumour"]), ("Mesenchymal", high["microenvironment"])) if yes]
    chance = copy_number_probabilities(tumour)["EGFR amplification"]
    answers = {
        "molecular_subtype": ", ".join(subtypes) or str(rng.choice(["Proneural", "Neural"])),
        "extent_of_resection": "Complete" if rng.random() < 0.7 else "Sub-total",
        "surgery": "primary" if rng.random() < 0.85 else "recurrent",
        "mgmt_methylation": "Yes" if rng.random() < 0.4 else "No",
    }
    days = survival_days(tumour)
    answers["survival_days"] = "" if days is None else str(days)
    answers["egfr_amplification"] = "Yes" if rng.random() < chance else "No"
    for column, lacking in (("molecular_subtype", 0.08), ("mgmt_methylation", 0.03), ("egfr_amplification", 0.2)):
        if rng.random() < lacking:
            answers[column] = ""
    return {
        "donor_id": _donor_id(tumour),
        "tumor_name": tumour.case_id,
        **answers,
        "initial_kps": int(rng.choice([100, 90, 80, 70, 60], p=[0.3, 0.4, 0.15, 0.1, 0.05])),
        "age_in_years": f"{int(tumour.age_days // 365.25)} yrs",
    }

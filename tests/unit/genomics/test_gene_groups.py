"""Gene groups: what a list may say, how it meets a cohort's genes, and how the shipped one meets real glioma."""

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.genomics.genes import gene_names
from histofuse.genomics.groups import BOTH, count_selected, read_groups, resolve
from histofuse.io import InputError

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "config" / "gene_groups.tsv"
MIRROR = ROOT.parent / "shared" / "mirror" / "raw.githubusercontent.com"
PORPOISE = MIRROR / "mahmoodlab/PORPOISE/3390dc40e15995ba852d7a561faf0e996cf20501"
INFERCNV = MIRROR / "broadinstitute/infercnv/65e6bf554600c92e7d5c121e98247d9c3f888a0d/inst/extdata"
IMMUNO_NOTES = MIRROR / "mdozmorov/Immuno_notes/2a538d2d73fbe9f7568de7822b50d76eb642c313"
SCALOP = ROOT.parent / "shared" / "data" / "genes" / "scalop_glioma_signatures.json"
needs_shared = pytest.mark.skipif(not MIRROR.exists(), reason="needs ../shared beside the repository: real gene tables")

SIZES = {
    "cell_differentiation_markers": 443,
    "cytokines_and_growth_factors": 452,
    "kinases": 513,
    "microenvironment": 416,
    "oncogenes": 328,
    "transcription_factors": 1536,
    "tumour": 86,
    "tumour_suppressors": 82,
}


def write(path, *lines, header="gene\tgroup\tsource\tlicence"):
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path):
    """A list with an old name, an old and a new name of one gene, an unknown gene and a gene in both lists."""
    return write(
        tmp_path / "mine.tsv",
        "SOX2\ttumour\tpaper 1\tMIT",
        "MLL\ttumour\tpaper 1\tMIT",
        "EPAS1\ttumour\tpaper 1\tMIT",
        "EPAS1\tmicroenvironment\tpaper 2\tMIT",
        "CD3D\tmicroenvironment\tpaper 2\tMIT",
        "MLL\tfamily\t\t",
        "KMT2A\tfamily\t\t",
        "CD3D\tfamily\t\t",
        "NOGENE\tfamily\t\t",
        "EPAS1\tfamily\t\t",
    )


def columns_of(resolved, groups):
    """The genes that are in any of the groups, sorted."""
    return sorted(set(resolved.loc[resolved["group"].isin(groups), "gene"]))


def test_reading_renames_and_keeps_the_unknown_apart(small):
    frame = read_groups(small)
    assert frame.columns.tolist() == ["listed_as", "gene", "group", "source", "licence"]
    assert frame["gene"].tolist() == (
        ["SOX2", "KMT2A", "EPAS1", "EPAS1", "CD3D", "KMT2A", "KMT2A", "CD3D", None, "EPAS1"]
    )
    assert frame.loc[1, ["listed_as", "source", "licence"]].tolist() == ["MLL", "paper 1", "MIT"]


def test_resolving(small):
    resolved, report = resolve(read_groups(small), ["CD3D", "EPAS1", "KMT2A", "TP53"])
    assert resolved.to_dict("list") == {
        "gene": ["CD3D", "EPAS1", "KMT2A", "CD3D", "KMT2A", "EPAS1"],
        "group": ["family", "family", "family", "microenvironment", "tumour", BOTH],
        "source": ["", "", "", "paper 2", "paper 1", "paper 2; paper 1"],
    }
    expected = pd.DataFrame(
        [
            ("family", 5, 1, 3, 3, 3, "NOGENE"),
            ("microenvironment", 2, 0, 2, 2, 1, ""),
            ("tumour", 3, 1, 3, 2, 1, ""),
            (BOTH, 1, 0, 1, 1, 1, ""),
        ],
        columns=["group", "listed", "renamed", "known", "expressed", "exclusive", "unknown"],
    )
    pd.testing.assert_frame_equal(report, expected)


def test_a_gene_of_both_lists_that_is_not_expressed(small):
    resolved, report = resolve(read_groups(small), ["CD3D", "KMT2A"])
    assert BOTH not in set(resolved["group"])
    assert report.set_index("group").loc[BOTH, ["known", "expressed", "exclusive"]].tolist() == [1, 0, 0]


def test_the_order_of_the_list_and_of_the_cohort_do_not_matter(small, tmp_path):
    header, *rows = small.read_text().splitlines()
    other = write(tmp_path / "other.tsv", *rows[::-1], header=header)
    genes = ["CD3D", "EPAS1", "KMT2A"]
    one, two = resolve(read_groups(small), genes)[0], resolve(read_groups(other), genes[::-1])[0]
    pd.testing.assert_frame_equal(one, two)


def test_columns_of_groups(small):
    resolved, _ = resolve(read_groups(small), ["CD3D", "EPAS1", "KMT2A"])
    assert columns_of(resolved, ["tumour"]) == ["KMT2A"]
    assert columns_of(resolved, ["tumour", BOTH, "family"]) == ["CD3D", "EPAS1", "KMT2A"]


def test_own_groups_need_two_columns_only(tmp_path):
    path = write(tmp_path / "own.tsv", "TP53\tmy-set_1", "", "EGFR\tmy-set_1", header="gene\tgroup")
    resolved, report = resolve(read_groups(path), ["EGFR", "TP53"])
    assert columns_of(resolved, ["my-set_1"]) == ["EGFR", "TP53"]
    assert report["group"].tolist() == ["my-set_1"]
    with_mark = tmp_path / "spreadsheet.tsv"  # quotes, a byte order mark, Windows' line ends, a column of remarks
    with_mark.write_bytes('\ufeffgroup\tgene\tremark\r\n"my-set_1"\t"TP53"\t"a ""b"""\r\n'.encode())
    assert read_groups(with_mark)["gene"].tolist() == ["TP53"]


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("gene\tset", ["TP53\tx"], r"column\(s\) group are missing"),
        ("gene,group", ["TP53,x"], r"column\(s\) gene, group are missing; .* tab-separated"),
        ("", [], r"column\(s\) gene, group are missing"),
        ("gene\tgroup", [], "no gene below the header"),
        ("gene\tgroup", ["TP53\tx", "\tx"], "line 3: the gene is empty"),
        ("gene\tgroup", ["TP53\tx", "EGFR"], "line 3: the group is empty"),
        ("gene\tgroup", ["TP53\tmy group"], "line 2: group 'my group' may have letters"),
        ("gene\tgroup", ["TP53\t../x"], "line 2: group '../x' may have letters"),
        ("gene\tgroup", [f"TP53\t{BOTH}"], "do not list it"),
        ("gene\tgroup", ["TP53\tx", "EGFR\tx", "TP53\tx"], r"line 4: TP53 is in x already \(line 2\)"),
        ("gene\tgroup", ["Trp53\tx", "Egfr\tx", "EGFR\tx"], r"2 of 3 genes are not known \(Trp53, Egfr, …\)"),
    ],
)
def test_bad_lists(tmp_path, header, rows, says):
    with pytest.raises(InputError, match=says):
        read_groups(write(tmp_path / "bad.tsv", *rows, header=header))


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_groups(tmp_path / "absent.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_groups(tmp_path / "binary.tsv")


def test_a_cohort_with_other_names(small):
    with pytest.raises(InputError, match=r"none of the 4 genes .* among the 2 measured ones \(ENSG1, ENSG2"):
        resolve(read_groups(small), ["ENSG1", "ENSG2"])


def test_the_shipped_list():
    """Every gene by its approved symbol, with source and licence; sizes as documented."""
    frame = read_groups(SHIPPED)
    assert (frame["gene"] == frame["listed_as"]).all()
    assert (frame[["source", "licence"]] != "").all(axis=None)
    assert frame["group"].value_counts().sort_index().to_dict() == SIZES
    resolved, _ = resolve(frame, sorted(gene_names().gene_type))
    assert columns_of(resolved, [BOTH]) == ["EPAS1"]
    assert {"EGFR", "IDH1", "SOX4", "OLIG2", "GFAP"} <= set(columns_of(resolved, ["tumour"]))
    assert {"CD3D", "CD163", "PTPRC", "PECAM1", "P2RY12"} <= set(columns_of(resolved, ["microenvironment"]))


@needs_shared
def test_the_shipped_list_is_what_its_sources_say():
    spec = importlib.util.spec_from_file_location("gene_tables", ROOT / "tools" / "gene_tables.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    listed = tool.listed_genes(
        PORPOISE / "datasets_csv/signatures.csv", IMMUNO_NOTES / "data/ESTIMATE/ncomms3612-s2.xlsx", SCALOP
    )
    rows, _ = tool.group_rows(listed, gene_names())
    shipped = pd.read_csv(SHIPPED, sep="\t", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(pd.DataFrame(rows), shipped)


@needs_shared
def test_real_tcga_genes_meet_the_groups():
    """The 1,544 genes of PORPOISE's glioma table: all are known, three by a former name."""
    with zipfile.ZipFile(PORPOISE / "datasets_csv_mutsig/tcga_gbmlgg_all_clean.csv.zip") as archive:
        header = pd.read_csv(archive.open(archive.namelist()[0]), nrows=0).columns
    names, counts = gene_names().canonical([name.removesuffix("_rnaseq") for name in header if "_rnaseq" in name])
    assert counts == {"symbol": 1541, "alias": 3}
    assert len(set(names)) == 1544
    resolved, report = resolve(read_groups(SHIPPED), names)
    print(report.to_string())
    assert report.set_index("group")["listed"].drop(BOTH).to_dict() == SIZES
    assert report.set_index("group")["expressed"].to_dict() == {
        "cell_differentiation_markers": 413,
        "cytokines_and_growth_factors": 411,
        "kinases": 493,
        "microenvironment": 130,
        "oncogenes": 305,
        "transcription_factors": 134,
        "tumour": 24,
        "tumour_suppressors": 82,
        BOTH: 0,
    }
    assert (report["exclusive"] == report["expressed"]).all()
    assert set(names) == set(columns_of(resolved, sorted(SIZES)))  # the table was made from the families


@needs_shared
def test_sizes_after_the_cut_by_variance():
    """The top 30 % by variance of log-TPM over bulk tumours mixed from real glioma cells.

    A tumour is a Dirichlet mix of four patients' malignant cells, on average a third of it microglia and normal
    oligodendrocytes. Only genes that these cells show can be judged: hardly those of vessels and lymphocytes.
    """
    cells = pd.read_csv(INFERCNV / "oligodendroglioma_expression_downsampled.counts.matrix.gz", sep="\t", index_col=0)
    label = pd.read_csv(INFERCNV / "oligodendroglioma_annotations_downsampled.txt", sep="\t", index_col=0, header=None)[
        1
    ]
    profiles = cells.T.groupby(label[cells.columns]).mean()
    profiles = profiles.div(profiles.sum(axis=1), axis=0) * 1e6
    malignant = profiles.index.str.startswith("malignant")
    rng = np.random.default_rng(0)
    normal = rng.beta(2, 4, (300, 1))
    tumours = (1 - normal) * (rng.dirichlet([0.5] * malignant.sum(), 300) @ profiles[malignant].to_numpy())
    tumours += normal * (rng.dirichlet([2, 2], 300) @ profiles[~malignant].to_numpy())
    names, counts = gene_names().canonical(cells.index, keep_unknown=True)
    assert counts["symbol"] + counts["alias"] > 0.9 * len(names)
    variance = pd.Series(np.log2(1 + tumours).var(axis=0), names).groupby(level=0).max()
    kept = variance.nlargest(round(0.3 * len(variance))).index
    groups = read_groups(SHIPPED)
    measured = resolve(groups, variance.index)[1].set_index("group")["expressed"]
    after = resolve(groups, kept)[1].set_index("group")["expressed"]
    print(pd.DataFrame({"measured": measured, "kept": after, "share": after / measured}).to_string())
    assert measured[["tumour", "microenvironment"]].tolist() == [77, 168]
    assert after[["tumour", "microenvironment"]].tolist() == pytest.approx([47, 135], abs=2)


def test_counts_of_a_selection_are_the_range_over_splits():
    resolved = pd.DataFrame({"gene": ["A", "B", "C"], "group": ["tumour", "tumour", "microenvironment"], "source": ""})
    selection = pd.DataFrame(
        {
            "split": [0, 0, 0, 1, 1, 1],
            "gene": ["A", "B", "C"] * 2,
            "selected": [True, True, False, True, False, False],
        }
    )
    assert count_selected(resolved, ["tumour", "microenvironment", "kinases"], selection) == ["1–2", "0", "0"]

"""The papers' own figures: the files keep their contract and say what the papers print."""

import re
from pathlib import Path

import pytest
import yaml

from histofuse.io import read_table
from histofuse.paper.tables import check_published

FOLDER = Path(__file__).parents[3] / "config/published"
PAPERS = FOLDER.parents[2] / "shared/papers"
CLASSES = ["slide_macro_auc", "slide_accuracy", "slide_sensitivity", "slide_specificity", "slide_f1"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_contract(path):
    figures = check_published(read_table(path), path.name)
    assert set(figures["table"]) == {path.stem}
    assert figures["published"].notna().all()
    assert set(figures["metric"]) <= {*CLASSES, "harrell_c", "slide_harrell_c"}
    assert set(figures["task"]) <= {"survival", "survival_kirc", "survival_intervals", "diagnosis", "grading"}


def test_every_row_that_names_a_published_one_finds_its_figures():
    config = yaml.safe_load((FOLDER.parent / "paper.yaml").read_text())
    named = [
        (entry["published"], row["published"], row.get("task", entry["task"]))
        for entry in config["tables"].values()
        for row in entry["rows"]
        if "published" in row
    ]
    known = {(path.stem, row, task) for path in FOLDER.glob("*.csv") for row, task in zip(*of(path.stem))}
    assert set(named) <= known
    assert {name for name, _, _ in named} == {path.stem for path in FOLDER.glob("*.csv")} - {"pathomic_fusion"}


def test_every_figure_of_a_row_that_is_named_has_its_column():
    config = yaml.safe_load((FOLDER.parent / "paper.yaml").read_text())
    for name, entry in config["tables"].items():
        if "published" not in entry:
            continue
        frame = figures(entry["published"])
        for row in entry["rows"]:
            of_row = (frame["row"] == row.get("published")) & (frame["task"] == row.get("task", entry["task"]))
            assert set(frame.loc[of_row, "metric"]) <= set(entry["metrics"]), f"{name}, {row['label']}"


def of(name):
    return figures(name)["row"], figures(name)["task"]


def figures(name):
    return read_table(FOLDER / f"{name}.csv")


@pytest.mark.parametrize(("name", "rows", "lines"), [("ks_fusion_table1", 9, 99), ("ks_fusion_table2", 3, 33)])
def test_ks_fusion_has_eleven_figures_a_row(name, rows, lines):
    frame = figures(name)
    assert frame["row"].nunique() == rows
    assert len(frame) == lines


def test_accuracies_lie_on_the_grid_of_236_slides():
    # The specification derives the size of the test set from this; a mistyped figure would fall off the grid.
    for name in ("ks_fusion_table1", "ks_fusion_table2"):
        frame = figures(name)
        accuracy = frame.loc[frame["metric"] == "slide_accuracy", "published"]
        assert ((accuracy * 236 - (accuracy * 236).round()).abs() < 0.0125).all()


# What the papers' texts print at the beginning of the line of each row; "Table N" is where the line is looked for.
GPTOMIC = "000_e3a134a9ebcafb35.txt"
COMPARED = {
    "Histology CNN": "Histology CNN [3]",
    "Histology T2T-ViT": "Histology T2T-ViT [15]",
    "Genomic SNN": "Genomic SNN [3]",
    "Pathomic Fusion (CNN + SNN)": "Pathomic Fusion [3] (CNN + SNN)",
    "Pathomic Fusion (T2T-ViT + SNN)": "Pathomic Fusion [3] (T2T-ViT [15] + SNN)",
    "PathOmics": "PathOmics [4]",
    "Path-GPTOmic": "Ours",
}
PRINTED = {
    ("path_gptomic_table1", "Table 1"): COMPARED
    | {"SCNN": "SCNN (Histology Only) [19]", "GSCNN": "GSCNN (Histology + Genomic) [19]"},
    ("path_gptomic_table2", "Table 2"): COMPARED,
    ("path_gptomic_table3", "Table 3"): {
        "1: SNN, concat": "1 SNN Concat",
        "2: scGPT, concat": "2 scGPT w/o smooth Concat",
        "3: scGPT, GradMod": "3 scGPT w/o smooth GradMod.",
        "4: scGPT smoothed, concat": "4 scGPT w/ smooth Concat",
        "5: scGPT smoothed, Kronecker product": "5 scGPT w/ smooth Kro. Prod. [3]",
        "6: scGPT smoothed, GradMod": "6 scGPT w/ smooth GradMod.",
    },
    ("pathomic_fusion", "Table 1"): {
        name: COMPARED[name] for name in ("Histology CNN", "Genomic SNN", "Pathomic Fusion (CNN + SNN)")
    },
    ("pathomic_fusion", "Table 2"): {
        f"{name}, KIRC": COMPARED[name] for name in ("Histology CNN", "Genomic SNN", "Pathomic Fusion (CNN + SNN)")
    },
}
KS_FUSION = "001_e9cc6f4c02b1d053.txt"
OURS = r"| Ours | \checkmark | \checkmark |"
KS_FUSION_PRINTED = {
    "AttMIL": r"| AttMIL [7] | \checkmark | |",
    "TransMIL": r"| TransMIL [16] | \checkmark | |",
    "SNN": r"| SNN [10] | | \checkmark |",
    **{name: rf"| {name} | \checkmark | \checkmark |" for name in ("Concat", "Add", "Bilinear")},
    "MCAT": r"| MCAT [5] | \checkmark | \checkmark |",
    "CMTA": r"| CMTA [27] | \checkmark | \checkmark |",
    "KS-Fusion": OURS,
}
KS_FUSION_COLUMNS = [(task, metric) for task in ("diagnosis", "grading") for metric in CLASSES]
KS_FUSION_COLUMNS += [("survival_intervals", "slide_harrell_c")]
needs_papers = pytest.mark.skipif(not PAPERS.exists(), reason="the papers' texts are not on this machine")


def lines_of(paper, table):
    """The lines of a paper's text from the caption of a table to that of the next, or to the end."""
    lines = (PAPERS / paper).read_text(encoding="utf-8").replace("\xa0", " ").splitlines()
    first = next(k for k, line in enumerate(lines) if line.strip().startswith((f"{table}:", f"{table}.")))
    after = (k for k, line in enumerate(lines) if k > first and line.strip().startswith("Table "))
    return lines[first : next(after, None)]


def only(lines, beginning):
    """What follows the beginning of the one line that has it."""
    (line,) = [line for line in lines if line.startswith(beginning)]
    return line.removeprefix(beginning).strip()


@needs_papers
@pytest.mark.parametrize(("name", "table"), PRINTED)
def test_every_figure_stands_on_its_own_line_of_the_paper(name, table):
    rows, lines = figures(name).set_index("row"), lines_of(GPTOMIC, table)
    named = [row for (of, _), printed in PRINTED.items() if of == name for row in printed]
    assert sorted(rows.index) == sorted(named)
    for row, beginning in PRINTED[name, table].items():
        value, interval = rows.loc[row, ["published", "published_ci"]]
        expected = f"{value:.3f}" + ("" if interval != interval else f" ± {interval:.3f}")
        assert only(lines, f"{beginning} ") == expected, row


def of_ks_fusion(name, row):
    """Published per cents of a row, in the order of the paper's columns."""
    frame = figures(name).set_index(["row", "task", "metric"])["published"]
    assert set(frame[row].index) == set(KS_FUSION_COLUMNS)
    return [f"{100 * frame[row, task, metric]:.2f}" for task, metric in KS_FUSION_COLUMNS]


@needs_papers
def test_ks_fusion_figures_stand_on_their_own_lines_of_the_paper():
    lines = lines_of(KS_FUSION, "Table 1")
    assert set(figures("ks_fusion_table1")["row"]) == set(KS_FUSION_PRINTED)
    for row, beginning in KS_FUSION_PRINTED.items():
        assert only(lines, beginning) == " | ".join(of_ks_fusion("ks_fusion_table1", row)) + " |", row


@needs_papers
def test_ks_fusion_ablation_is_that_of_the_paper():
    """The text has both ablations on one line, each cell with the figures of the two; the full model is Table 1's."""
    pairs = re.findall(r"\d+\.\d+", only(lines_of(KS_FUSION, "Table 2"), "| w/o Ge-Con w/o CG-Coord |"))
    assert pairs[0::2] == of_ks_fusion("ks_fusion_table2", "without Ge-Con")
    assert pairs[1::2] == of_ks_fusion("ks_fusion_table2", "without CG-Coord")
    assert of_ks_fusion("ks_fusion_table2", "KS-Fusion") == of_ks_fusion("ks_fusion_table1", "KS-Fusion")

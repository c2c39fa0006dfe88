"""The papers' own figures: the files keep their contract and say what the papers print."""

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


def printed(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.skipif(not PAPERS.exists(), reason="the papers' texts are not on this machine")
@pytest.mark.parametrize(
    ("name", "paper", "scale", "digits"),
    [
        ("path_gptomic_table1", "000_e3a134a9ebcafb35.txt", 1, 3),
        ("path_gptomic_table2", "000_e3a134a9ebcafb35.txt", 1, 3),
        ("path_gptomic_table3", "000_e3a134a9ebcafb35.txt", 1, 3),
        ("ks_fusion_table1", "001_e9cc6f4c02b1d053.txt", 100, 2),
        ("ks_fusion_table2", "001_e9cc6f4c02b1d053.txt", 100, 2),
    ],
)
def test_every_figure_is_printed_in_the_paper(name, paper, scale, digits):
    text = printed(PAPERS / paper)
    for _, line in figures(name).iterrows():
        figure = f"{line['published'] * scale:.{digits}f}"
        interval = "" if line.isna()["published_ci"] else f" ± {line['published_ci']:.3f}"
        assert figure + interval in text, f"{line['row']}, {line['metric']}"


@pytest.mark.skipif(not PAPERS.exists(), reason="the papers' texts are not on this machine")
def test_ks_fusion_rows_are_in_the_order_of_the_paper():
    text = printed(PAPERS / "001_e9cc6f4c02b1d053.txt")
    for label, row in figures("ks_fusion_table1").groupby("row"):
        values = " | ".join(f"{value * 100:.2f}" for value in row["published"])
        assert f"| {values} |" in text, label

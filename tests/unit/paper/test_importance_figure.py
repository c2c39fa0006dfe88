"""The figure of permutation importance: means over runs, first genes, what is drawn."""

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.paper.gene_importance import importance_figure, over_repeats, top_genes
from histofuse.paper.style import save_figure

BRANCHES = ("", "tumour", "microenvironment")


def importance(branches=BRANCHES, splits=3, genes=True, seeds=(0,)):
    """Each branch moves with its own genes; tumour genes T0 … the more the higher their number."""
    lines = []
    for split in range(splits):
        for seed in seeds:
            about = {"split": split, "seed": seed, "metric": "harrell_c", "intact": 0.7, "n_train": 80, "n_test": 20}
            for source in ("tiles", "tumour", "microenvironment"):
                columns = [""] + [f"{source[0].upper()}{k}" for k in range(12)] * (genes and source != "tiles")
                for column in columns:
                    for branch in branches:
                        own = branch.startswith(source)
                        size = (1 if not column else 0.01 * int(column[1:])) * own + 0.1 * (source == "tiles")
                        for repeat in range(2):
                            line = {"input": source, "column": column, "branch": branch, "repeat": repeat}
                            change = size + 0.1 * split * own * (column == "") + 0.02 * repeat * own
                            lines.append(
                                line | about | {"change": change, "permuted": 0.7 - 0.2 * size - 0.01 * repeat}
                            )
    return pd.DataFrame(lines)


def test_permutations_of_a_run_are_averaged():
    found = over_repeats(importance())
    one = found[(found["input"] == "tumour") & (found["column"] == "") & (found["branch"] == "tumour")]
    np.testing.assert_allclose(one["change"], [1.01, 1.11, 1.21])
    np.testing.assert_allclose(one["drop"], 0.205)
    np.testing.assert_allclose(one["ratio"], 0.25)
    assert one["split"].tolist() == [0, 1, 2]


def test_the_first_genes_are_those_of_the_branch_that_their_block_moves():
    branch, genes = top_genes(over_repeats(importance()), "microenvironment")
    assert branch == "microenvironment"
    assert genes["column"].tolist() == [f"M{k}" for k in range(11, 1, -1)]
    assert genes["change"].iloc[0] == pytest.approx(0.12)


def test_a_gene_that_a_run_passed_over_counts_as_nothing_there():
    frame = importance()
    frame = frame[~((frame["column"] == "T11") & (frame["split"] < 2))]
    _, genes = top_genes(over_repeats(frame), "tumour")
    assert genes.set_index("column")["change"]["T11"] == pytest.approx(0.12 / 3)
    assert genes["column"].tolist().index("T11") == 7  # after T4
    frame.loc[frame["column"] == "T11", "change"] = 0.9
    _, genes = top_genes(over_repeats(frame), "tumour")
    first = genes.iloc[0]
    assert (first["column"], first["n_runs"], first["values"]) == ("T11", 1, [pytest.approx(0.9)])
    assert first["change"] == pytest.approx(0.3)


def axes_of(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def test_panels_and_what_they_show():
    figure = importance_figure(importance(seeds=(0, 1)), "KS-Fusion")
    shown = axes_of(figure)
    assert list(shown) == [
        "Change of a branch's output",
        "Loss of the metric",
        "Tumour genes",
        "Microenvironment genes",
    ]
    effect, loss = shown["Change of a branch's output"], shown["Loss of the metric"]
    ticks = [label.get_text() for label in effect.get_xticklabels()]
    assert ticks == ["Tumour\ngenes", "Microenvironment\ngenes", "Tiles"]
    assert loss.get_ylabel() == "Harrell C, true less permuted"
    legend = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert legend == ["Whole model", "Tumour branch", "Microenvironment branch"]
    dots = [line for line in effect.lines if line.get_marker() == "o" and line.get_markersize() == 4.5]
    np.testing.assert_allclose([line.get_ydata()[0] for line in dots], [1.11, 0, 0, 1.11, 0.1, 0.1], atol=1e-12)
    runs = [line for line in effect.lines if line.get_markersize() == 2.5]
    assert all(len(line.get_ydata()) == 6 for line in runs)
    genes = shown["Tumour genes"]
    assert [label.get_text() for label in genes.get_yticklabels()] == [f"T{k}" for k in range(11, 1, -1)]
    assert genes.get_xlabel() == "Mean change, SD of the\ntumour branch"


def test_the_interval_is_corrected_for_overlapping_splits():
    """Of 1.01, 1.11 and 1.21: 4.303 · 0.1 · √(1/3 + 1/4)."""
    effect = axes_of(importance_figure(importance(), ""))["Change of a branch's output"]
    bars = [line.get_ydata() for line in effect.lines if line.get_marker() == "None" and len(line.get_ydata()) == 2]
    half = 4.302653 * 0.1 * np.sqrt(1 / 3 + 1 / 4)
    assert any(np.allclose(bar, [1.11 - half, 1.11 + half]) for bar in bars)


def test_genes_that_few_runs_permuted_are_marked_so():
    frame = importance()
    frame = frame[~((frame["column"] == "T11") & (frame["split"] < 1))]
    genes = axes_of(importance_figure(frame, ""))["Tumour genes"]
    assert "T11 (2/3)" in [label.get_text() for label in genes.get_yticklabels()]


def test_branches_of_two_magnifications_are_named_in_words():
    frame = importance(("", "tumour_20x", "tumour_10x"))
    figure = importance_figure(frame, "")
    legend = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert legend == ["Whole model", "Tumour branch, 20×", "Tumour branch, 10×"]
    assert axes_of(figure)["Tumour genes"].get_xlabel() == "Mean change, SD of the\ntumour branch, 20×"


def test_one_split_and_blocks_without_genes_and_absent_metrics(tmp_path):
    frame = importance(splits=1, genes=False).assign(permuted=np.nan)
    figure = importance_figure(frame, "Path-GPTOmic")
    assert list(axes_of(figure)) == ["Change of a branch's output", "Loss of the metric"]
    for name in "ab":
        save_figure(importance_figure(frame, "t"), tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_model_without_branches_is_refused():
    with pytest.raises(InputError, match="there is no branch to draw"):
        importance_figure(importance(("",)), "")

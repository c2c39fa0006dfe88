"""Figure of what a model's branches make of its inputs: permutation importance over all runs of a table's row."""

from __future__ import annotations

import math
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histofuse.evaluation.statistics import corrected_half_width
from histofuse.io import InputError
from histofuse.paper.render import METRIC_NAMES
from histofuse.paper.style import BLACK, COLOURS, GREY, STYLE, set_heading

WHOLE = ""  # the branch that is the whole model
TOP = 10  # genes of a block
WIDTH, ABOVE, PER_GENE = 7.0, 2.75, 0.16  # inches: of the figure, its upper panels, a gene
OF_OTHERS = 2 / math.sqrt(math.pi)  # mean |difference| of two draws from a normal distribution of standard deviation 1
STEP = 0.17  # between the branches of an input
RUN = ["split", "seed"]


def over_repeats(importance: pd.DataFrame) -> pd.DataFrame:
    """Means over the permutations of each run: `input, column, branch, split, seed, change, drop, ratio`.

    `importance` is the concatenation of the tables of `training.gene_importance` with `split` and `seed`. `drop` is
    the metric with true inputs less that with permuted ones; `ratio` is of test to training cases.
    """
    frame = importance.assign(
        drop=importance["intact"] - importance["permuted"], ratio=importance["n_test"] / importance["n_train"]
    )
    keys = ["input", "column", "branch", *RUN]
    return frame.groupby(keys, sort=False)[["change", "drop", "ratio"]].mean().reset_index()


def top_genes(runs: pd.DataFrame, source: str) -> tuple[str, pd.DataFrame]:
    """The branch that a block of genes moves most, and its TOP genes: `column, change, n_runs, values`.

    runs: as `over_repeats` gives it. `change` is the mean over all runs, with 0 for those in which the gene was not
    read or not among the first by its gradient; `n_runs` those in which it was permuted, `values` what they gave.
    """
    parts = runs[(runs["input"] == source) & (runs["branch"] != WHOLE)]
    moved = parts[parts["column"] == ""].groupby("branch", sort=False)["change"].mean()
    branch = moved.idxmax() if moved.notna().any() else moved.index[0]
    genes = parts[(parts["column"] != "") & (parts["branch"] == branch)]
    n_runs = len(runs[RUN].drop_duplicates())
    found = genes.groupby("column")["change"].agg(total="sum", n_runs="count", values=list).reset_index()
    found["change"] = found.pop("total") / n_runs
    found = found.sort_values(["change", "column"], ascending=[False, True], ignore_index=True)
    return str(branch), found.head(TOP)[["column", "change", "n_runs", "values"]]


def importance_figure(importance: pd.DataFrame, title: str) -> Figure:
    """Effect on each branch of permuting each input, the loss of the metric, and below the genes of each block."""
    runs = over_repeats(importance)
    blocks = runs[runs["column"] == ""]
    branches = [name for name in blocks["branch"].unique() if name != WHOLE]
    if not branches:
        raise InputError("there is no branch to draw: the model's output is no sum of branches")
    colours = dict(zip(branches, COLOURS[1:])) | {WHOLE: BLACK}
    of_genes = list(runs.loc[runs["column"] != "", "input"].unique())
    tops = {source: top_genes(runs, source) for source in of_genes}
    below = 0.88 + PER_GENE * TOP if tops else 0
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, ABOVE + below), layout="constrained")
        upper, lower = figure, None
        if tops:
            upper, lower = figure.subfigures(2, 1, height_ratios=[ABOVE, below])
        effect, loss = upper.subplots(1, 2)
        names = {source: f"{_name(source)} genes" for source in of_genes}
        names |= {source: _name(source) for source in blocks["input"].unique() if source not in names}
        _draw_blocks(effect, blocks[blocks["branch"] != WHOLE], "change", names, colours)
        effect.axhline(OF_OTHERS, color=GREY, linestyle=":", linewidth=0.8)
        said = {"fontsize": 6.5, "color": GREY, "ha": "right", "va": "bottom"}
        effect.text(0.99, OF_OTHERS, "that of another case", transform=effect.get_yaxis_transform(), **said)
        effect.set(title="Change of a branch's output", ylabel="Mean change, SD of the branch")
        effect.set_ylim(-0.04, max(effect.get_ylim()[1], 1.2 * OF_OTHERS))
        _draw_blocks(loss, blocks, "drop", names, colours)
        metric = METRIC_NAMES[importance["metric"].iloc[0]]
        loss.set(title="Loss of the metric", ylabel=f"{metric}, true less permuted")
        handles, labels = loss.get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7)
        if lower is not None:
            n_runs = len(runs[RUN].drop_duplicates())
            for axes, (source, (branch, genes)) in zip(np.atleast_1d(lower.subplots(1, len(tops))), tops.items()):
                _draw_genes(axes, genes, n_runs, colours[branch])
                axes.set(title=names[source], xlabel=f"Mean change, SD of the\n{_of_branch(branch).lower()}")
        set_heading(figure, title)
    return figure


def _draw_blocks(axes, blocks: pd.DataFrame, column: str, names: dict[str, str], colours: dict[str, str]) -> None:
    """A group per input: for each branch the runs, and their mean with the corrected interval over splits."""
    shown = [branch for branch in colours if branch in set(blocks["branch"])]
    shown = [WHOLE] * (WHOLE in shown) + [branch for branch in shown if branch != WHOLE]
    for place, source in enumerate(names):
        for k, branch in enumerate(shown):
            runs = blocks[(blocks["input"] == source) & (blocks["branch"] == branch)]
            x, colour = place + STEP * (k - (len(shown) - 1) / 2), colours[branch]
            splits = runs.groupby("split")[[column, "ratio"]].mean().dropna()
            mean, half = splits[column].mean(), corrected_half_width(splits[column], splits["ratio"].mean())
            axes.plot(np.full(len(runs), x), runs[column], "o", color=colour, markersize=2.5, alpha=0.35, linewidth=0)
            low = max(mean - half, 0) if column == "change" else mean - half  # changes are absolute
            axes.plot([x, x], [low, mean + half], color=colour, linewidth=1)
            label = "_" if place else ("Whole model" if branch == WHOLE else _of_branch(branch))
            axes.plot(x, mean, "D" if branch == WHOLE else "o", color=colour, markersize=4.5, label=label)
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    wrapped = [name.replace(" genes", "\ngenes") for name in names.values()]
    axes.set_xticks(range(len(names)), wrapped)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("Input taken from other cases")


def _draw_genes(axes, genes: pd.DataFrame, n_runs: int, colour: str) -> None:
    for place, gene in enumerate(genes.itertuples()):
        axes.plot(gene.values, np.full(len(gene.values), place), "o", color=colour, markersize=2.5, alpha=0.35)
        axes.plot([0, gene.change], [place, place], color=colour, linewidth=1)
        axes.plot(gene.change, place, "o", color=colour, markersize=4.5)
    labels = [
        _said(gene.column) + (f" ({gene.n_runs}/{n_runs})" if gene.n_runs < n_runs else "")
        for gene in genes.itertuples()
    ]
    axes.set_yticks(range(len(genes)), labels)
    axes.set(ylim=(TOP - 0.4, -0.6), xlim=(0, None))
    axes.tick_params(axis="y", length=0)


def _of_branch(name: str) -> str:
    """ "Tumour branch", or "Tumour branch, 20×" of one of a magnification."""
    name, _, magnification = re.fullmatch(r"(.*?)(_(\d+)x)?", name).groups()
    return f"{_name(name)} branch" + (f", {magnification}×" if magnification else "")


def _said(name: str) -> str:
    return name.replace("_", " ")


def _name(name: str) -> str:
    text = _said(name)
    return text[:1].upper() + text[1:]

"""Figure of how two branches were trained side by side: coefficients, conflicts and what each alone is worth."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from histofuse.evaluation.score import score_run
from histofuse.evaluation.summary import SETTING, summarise
from histofuse.io import InputError
from histofuse.paper.render import METRIC_NAMES
from histofuse.paper.style import BLACK, GREY, STYLE, look, set_heading

SPREAD = (0.1, 0.9)  # the bands: the middle 80 %
WHOLE = "whole model"
LOWEST = 0.4  # wide intervals may leave the panel here, so that the curves beside them can be read


class Quantity(NamedTuple):
    """What a history tells under columns `{prefix}_{branch}`, and how it is drawn.

    title: of the panel, in two lines. label: of its axis. middle: the line, "mean" or "median" over all runs. level: of
    a dotted line, at which nothing is said or done.
    """

    prefix: str
    title: str
    label: str
    scale: str = "linear"
    middle: str = "mean"
    level: float | None = None


QUANTITIES = (
    Quantity("k", "Coefficient of\na branch's step", "k"),
    Quantity("rho", "Score of a branch,\nrelative to the other's", "ρ", "log", "median", 1.0),
    Quantity("conflict", "Conflicts of the\nbranches' gradients", "Share of steps"),
    Quantity("cosine", "Angle of the\nbranches' gradients", "Mean cosine", level=0.0),
    Quantity("projected", "Gradient changed,\nby branch", "Share of steps"),
    Quantity("confidence", "Confidence\nin a branch", "Mean confidence"),
    Quantity("c", "Each branch alone,\ntraining part", "{metric}", level=0.5),
)


def over_epochs(history: pd.DataFrame, quantity: Quantity) -> pd.DataFrame:
    """A quantity per epoch: `series, epoch, middle, low, high` (SPREAD), epochs counted from 1.

    `history` is the concatenation of the histories of several runs. Where it has the values of single steps
    (`{prefix}_steps_{branch}`) the spread is theirs, otherwise that of the runs. `series` is the branch, or "" for
    what is logged of both together. Epochs without a value are absent; without such columns the frame is empty.
    """
    prefix = f"{quantity.prefix}_"
    steps = f"{prefix}steps_"
    names = [c for c in history if (c == quantity.prefix or c.startswith(prefix)) and not c.startswith(steps)]
    frames = []
    for name in names:
        series = name[len(prefix) :]
        column = steps + series if steps + series in history else name
        values = history[["epoch", column]].explode(column).astype("float64").groupby("epoch")[column]
        low, high = (values.quantile(q) for q in SPREAD)
        frame = pd.DataFrame({"middle": values.agg(quantity.middle), "low": low, "high": high}).dropna()
        frames.append(frame.reset_index().assign(series=series, epoch=lambda f: f["epoch"] + 1))
    columns = ["series", "epoch", "middle", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def branch_scores(predictions: pd.DataFrame) -> pd.DataFrame | None:
    """Harrell C of each branch alone (`risk_{branch}`) and of the whole model on the test parts.

    Returns: columns of `evaluation.summary`, one line per `row`, which is a branch or WHOLE; None for predictions
    that do not tell the branches' risks.
    """
    branches = {name.removeprefix("risk_"): name for name in predictions if name.startswith("risk_")}
    if not branches:
        return None
    parts = []
    for row, column in (branches | {WHOLE: "risk"}).items():
        scores = score_run(predictions.assign(risk=predictions[column]), "survival")
        parts.append(scores[scores["metric"] == "harrell_c"].assign(row=row))
    return summarise(pd.concat(parts, ignore_index=True).assign(**dict.fromkeys(SETTING, "")), reference=None)


def modulation_figure(
    history: pd.DataFrame, scores: pd.DataFrame | None, title: str, metric: str = "harrell_c"
) -> Figure:
    """What `over_epochs` finds in the histories of all runs, a panel each, and at the right `branch_scores`.

    metric: which `c_{branch}` is, "harrell_c" or "macro_auc".
    """
    drawn = [(quantity, frame) for quantity in QUANTITIES if len(frame := over_epochs(history, quantity))]
    if not drawn:
        raise InputError("the histories tell nothing of two branches: the model was trained without a modulation")
    names = dict.fromkeys(name for _, frame in drawn for name in frame["series"] if name)
    names |= {} if scores is None else dict.fromkeys(scores["row"].drop(scores.index[scores["row"] == WHOLE]))
    looks = {name: look(place) for place, name in enumerate(["", *names])}
    widths = [2.3] * len(drawn) + ([] if scores is None else [0.4 + 0.2 * len(scores)])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(sum(widths) + 1.2, 2.6), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(widths), width_ratios=widths))
        for axes, (quantity, frame) in zip(panels, drawn):
            _draw_quantity(axes, quantity, frame, looks)
            axes.set(title=quantity.title, ylabel=quantity.label.format(metric=METRIC_NAMES[metric]))
        if scores is not None:
            beside = drawn[-1][1] if drawn[-1][0].prefix == "c" else None
            _draw_scores(panels[-1], scores, looks, beside)
            if beside is None:
                panels[-1].set_ylabel(METRIC_NAMES[metric])
            else:
                panels[-2].set_ylim(panels[-1].get_ylim())
                panels[-1].tick_params(axis="y", labelleft=False)
        handles = {}
        for axes in panels:
            for handle, label in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=7)
        set_heading(figure, title)
    return figure


def _draw_quantity(axes, quantity: Quantity, frame: pd.DataFrame, looks: dict) -> None:
    if quantity.level is not None:
        axes.axhline(quantity.level, color=GREY, linestyle=":", linewidth=0.8)
    few = frame["epoch"].nunique() <= 15
    for series, line in frame.groupby("series", sort=False):
        colour = looks[series]["color"]
        axes.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            *(line["epoch"], line["middle"]),
            **looks[series],
            linewidth=1.3,
            marker="o" if few else "",
            markersize=2.5,
            label=_name(series) if series else "Both branches",
        )
    last = frame["epoch"].max()
    margin = 0.03 * last if last > 1 else 0.5
    axes.set(xlabel="Epoch", xlim=(max(1 - margin, 0.5), last + margin))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if quantity.scale == "log":
        _logarithmic(axes, frame)


def _logarithmic(axes, frame: pd.DataFrame) -> None:
    """A logarithmic axis, with a linear part around 0 where values are not positive, and legible ticks in any range."""
    low, high = frame["low"].min(), frame["high"].max()
    if low <= 0:
        axes.set_yscale("symlog", linthresh=1)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(MaxNLocator(5) if high / low < 4 else LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_scores(axes, scores: pd.DataFrame, looks: dict, beside: pd.DataFrame | None) -> None:
    """Points with intervals, on an axis that also holds the curves `beside`."""
    for place, line in enumerate(scores.itertuples()):
        colour, marker = (BLACK, "D") if line.row == WHOLE else (looks[line.row]["color"], "o")
        axes.plot([place, place], [line.ci_low, line.ci_high], color=colour, linewidth=1)
        axes.plot(place, line.estimate, marker, color=colour, markersize=4, label=_name(line.row))
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=0.8)
    shown = [scores["estimate"], scores["ci_low"].clip(lower=LOWEST), scores["ci_high"]]
    shown += [] if beside is None else [beside["low"], beside["high"]]
    shown = pd.concat(shown)
    axes.set(xlim=(-0.6, len(scores) - 0.4), ylim=(min(shown.min(), 0.5) - 0.02, shown.max() + 0.02))
    axes.set(xticks=[], title="After training,\ntest part")


def _name(series: str) -> str:
    text = series.replace("_", " ")
    return text[:1].upper() + text[1:]

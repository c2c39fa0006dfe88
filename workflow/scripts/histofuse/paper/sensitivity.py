"""Figure of a table's metrics over the values of a parameter."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histofuse.io import InputError
from histofuse.paper.render import METRIC_NAMES
from histofuse.paper.style import BLACK, BLUE, GREY, STYLE, VERMILLION, set_heading


def sensitivity_figure(
    table: pd.DataFrame, values: Mapping[str, float], label: str, title: str, simulated: bool = False
) -> Figure:
    """A panel per metric: estimates with the papers' interval (thick) and the corrected one (thin) over a parameter.

    Args:
        table: columns of `paper.tables`. values: of the parameter, by the label of the row that has it; they are drawn
            equally spaced, in their order. label: name of the parameter. simulated: whether the cohort is, beside which
            no published figure is drawn.
    """
    strange = [row for row in values if row not in set(table["row"])]
    if strange:
        raise InputError(
            f"sensitivity: {strange[0]!r} is no row of the table; rows: {', '.join(table['row'].unique())}"
        )
    rows = sorted(values, key=values.get)
    metrics = list(dict.fromkeys(table["metric"]))
    with mpl.rc_context(STYLE):
        width = max(1.9, 0.6 + 0.32 * len(rows))
        figure = Figure(figsize=(width * len(metrics) + 1.6, 2.5), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(metrics)))
        for axes, metric in zip(panels, metrics):
            lines = table[table["metric"] == metric].set_index("row").loc[rows]
            _draw(axes, lines, simulated)
            axes.set(xlim=(-0.5, len(rows) - 0.5), xticks=range(len(rows)), xlabel=label)
            axes.set(xticklabels=[f"{values[row]:g}" for row in rows], ylabel=METRIC_NAMES.get(metric, metric))
        handles = {name: h for axes in panels for h, name in zip(*axes.get_legend_handles_labels())}
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=7)
        set_heading(figure, f"{title} (simulated cohort)" if simulated else title)
    return figure


def _draw(axes, lines: pd.DataFrame, simulated: bool) -> None:
    places = np.arange(len(lines))
    estimate, half = lines["estimate"], lines["half_width_t"]
    run = estimate.notna().to_numpy()
    axes.plot(places, estimate, color=GREY, linewidth=0.8, zorder=1)
    for place, line in zip(places, lines.itertuples()):
        if line.status != "run":
            axes.text(
                place,
                0.02,
                "not run",
                rotation=90,
                ha="center",
                va="bottom",
                color=GREY,
                fontsize=7,
                transform=axes.get_xaxis_transform(),
            )
    corrected = "Corrected 95 % interval" if (lines["n_splits"] > 1).any() else "95 % bootstrap over cases"
    known = lines["ci_low"].notna().to_numpy()
    if known.any():
        axes.vlines(places[known], lines["ci_low"][known], lines["ci_high"][known], color=BLUE, lw=1, label=corrected)
    known = half.notna().to_numpy()
    if known.any():
        ends = [(estimate + sign * half)[known].clip(0, 1) for sign in (-1, 1)]  # every metric lies between
        axes.vlines(places[known], *ends, color=BLUE, linewidth=3.5, label="t-interval, as printed")
    if run.any():
        axes.plot(places[run], estimate[run], "o", color=BLACK, markersize=4, zorder=3, label="Estimate")
    known = lines["published"].notna().to_numpy() & (not simulated)
    if known.any():
        style = {"markerfacecolor": "none", "markeredgecolor": VERMILLION, "markersize": 5, "linestyle": ""}
        axes.plot(places[known], lines["published"][known], "D", **style, zorder=4, label="Published")

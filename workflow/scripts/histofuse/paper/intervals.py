"""A table drawn as intervals."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histofuse.io import InputError
from histofuse.paper.render import METRIC_NAMES
from histofuse.paper.style import BLACK, BLUE, GREY, STYLE, VERMILLION, set_heading

AXES_WIDTH = 3.2  # inches, margins included
CHARACTER = 0.065  # inches of a row's label


def table_figure(table: pd.DataFrame, metric: str, title: str, simulated: bool = False) -> Figure:
    """One `metric` of a table: estimates, the papers' interval (thick) and the corrected one (thin), published figures.

    With a single split the thin one is the bootstrap interval over its test cases; that of a row that was scored on
    another cohort, over the cases there, is dashed. Rows that were not run stay in their
    place and say so.
    """
    lines = table[table["metric"] == metric].reset_index(drop=True)
    if lines.empty:
        raise InputError(f"the table has no {metric}; it has {', '.join(table['metric'].unique())}")
    with mpl.rc_context(STYLE):
        width = AXES_WIDTH + CHARACTER * lines["row"].str.len().max()
        figure = Figure(figsize=(max(5.2, width), 1.3 + 0.26 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for place, line in lines.iterrows():
            _draw_row(axes, -place, line, simulated)
        reference = lines[lines["row"] == lines["reference_row"]]
        if reference["estimate"].notna().any():
            axes.axvline(reference["estimate"].iloc[0], color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        axes.set(yticks=-lines.index.to_numpy(), yticklabels=lines["row"], ylim=(-len(lines) + 0.4, 0.6))
        axes.set(xlabel=METRIC_NAMES.get(metric, metric))
        set_heading(figure, f"{title} (simulated cohort)" if simulated else title)
        axes.tick_params(axis="y", length=0)
        handles, labels = axes.get_legend_handles_labels()
        by_label = dict(zip(labels, handles))
        if by_label:
            figure.legend(by_label.values(), by_label.keys(), loc="outside lower left", ncols=2, fontsize=7)
        not_run = lines.index[lines["status"] != "run"]
        for place in not_run:
            axes.text(
                0.01, -place, "not run", transform=axes.get_yaxis_transform(), va="center", color=GREY, fontsize=7
            )
    return figure


def _draw_row(axes, place: int, line: pd.Series, simulated: bool) -> None:
    if pd.notna(line["ci_low"]):
        label, style = "Corrected 95 % interval" if line["n_splits"] > 1 else "95 % bootstrap over cases", "-"
        if line["n_external"]:
            label, style = f"95 % bootstrap over cases of {line['scored_on_label']}", (0, (4, 1.5))
        axes.plot([line["ci_low"], line["ci_high"]], [place] * 2, color=BLUE, linewidth=1, linestyle=style, label=label)
    if pd.notna(line["half_width_t"]):
        ends = np.clip(line["estimate"] + np.array([-1, 1]) * line["half_width_t"], 0, 1)  # every metric lies between
        axes.plot(
            ends, [place, place], color=BLUE, linewidth=3.5, solid_capstyle="butt", label="t-interval, as printed"
        )
    if pd.notna(line["estimate"]):
        axes.plot(line["estimate"], place, "o", color=BLACK, markersize=4, zorder=3, linestyle="", label="Estimate")
    if pd.notna(line["published"]) and not simulated:
        style = {"markerfacecolor": "none", "markeredgecolor": VERMILLION, "markersize": 5, "linestyle": ""}
        axes.plot(line["published"], place, "D", **style, zorder=4, label="Published")

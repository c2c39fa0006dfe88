"""Figure of what smoothing does to an embedding: distances along walks from one cell type to another."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histofuse.io import InputError
from histofuse.paper.style import GREY, STYLE, look, set_heading

COLUMNS = ["pair", "space", "weight", "median", "low", "high"]


def interpolation_figure(distances: pd.DataFrame, title: str) -> Figure:
    """One panel per pair of cell types: λ, the share of the first type, against the distance to the second.

    `distances` has COLUMNS, one line per pair, space and λ: the median and the quartiles over pairs of cells of the
    distance to the end of the walk, in units of the distance between the ends. In a space in which mixtures lie
    between their parts the curve is the dotted diagonal.
    """
    missing = [name for name in COLUMNS if name not in distances]
    if missing:
        raise InputError(f"the distances lack the column(s) {', '.join(missing)}")
    pairs, spaces = distances["pair"].unique(), distances["space"].unique()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(pairs) + 1.4, 2.6), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(pairs), sharey=True))
        for panel, pair in zip(panels, pairs):
            panel.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.8, label="straight")
            for place, space in enumerate(spaces):
                chosen = (distances["pair"] == pair) & (distances["space"] == space)
                line = distances[chosen].sort_values("weight")
                panel.plot(line["weight"], line["median"], linewidth=1.3, label=space, **look(place))
                colour = look(place)["color"]
                panel.fill_between(line["weight"], line["low"], line["high"], color=colour, alpha=0.1, linewidth=0)
            panel.set(
                title=pair.replace(" → ", " →\n"), xlim=(0, 1), ylim=(0, None), xlabel="λ, share of the first type"
            )
        panels[0].set_ylabel("Distance to the second type,\nrelative to the ends'")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)
        set_heading(figure, title)
    return figure

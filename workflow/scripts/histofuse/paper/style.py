"""What the figures share: colours, line styles, fonts, and how they are written.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; groups also differ by line style. The SVG files
are the same byte for byte from run to run: no date, and a fixed salt for the ids in them.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from histofuse.io import atomic

BLUE, VERMILLION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#767676"
COLOURS = [BLACK, BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
LINES = ["-", "-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (8, 2))]
CHARACTERS_PER_INCH = 16  # of a heading
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "histofuse",
}


def look(place: int) -> dict:
    """Colour and style of one line after another; those after the seventh have its colour in another style."""
    again = 2 * (place // len(COLOURS))
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": LINES[(place + again) % len(LINES)]}


def set_heading(figure: Figure, text: str) -> None:
    """Write above the whole figure, in as many lines as its width takes."""
    wrapped = textwrap.fill(text, int(figure.get_figwidth() * CHARACTERS_PER_INCH))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=STYLE["font.size"])


def save_figure(figure: Figure, svg: str | Path, png: str | Path) -> None:
    """Write a figure as SVG and as PNG (200 dpi), the same bytes every time."""
    with mpl.rc_context(STYLE):
        with atomic(svg) as path:
            figure.savefig(path, format="svg", metadata={"Date": None})
        with atomic(png) as path:
            figure.savefig(path, format="png", dpi=200, metadata={"Software": None})

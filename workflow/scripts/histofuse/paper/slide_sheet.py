"""A page of slides: a row per slide, its picture on the left, what a model sees in columns beside it, a note below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.paper.slide_places import Place, box_of, draw_scale, draw_thumbnail
from histofuse.paper.style import CHARACTERS_PER_INCH, GREY

# In inches: a page's width, and what lies around and between the panels.
WIDTH, LEFT, GAP, TOP, HEADINGS, ROW_TITLE = 7.0, 0.05, 0.12, 0.08, 0.22, 0.28
LINE, NOTE_LENGTH = 0.13, 145  # height of a line of the note, and how many characters it holds
TITLE_LINE = 0.15
TALLEST, FLATTEST = 1.2, 0.3  # height of a panel, relative to its width


@dataclass(frozen=True)
class Sheet:
    """The figure, its panels [row][column] beside the pictures, the box of each row's slide, and what lies where.

    lefts: of the columns, that of the pictures first; panel_width, height; tops: lower ends of the rows; all in inches.
    """

    figure: Figure
    panels: list[list[Axes]]
    boxes: list[np.ndarray]
    lefts: list[float]
    panel_width: float
    height: float
    ends: list[float]

    def axes_at(self, left: float, top: float, width: float, tall: float) -> Axes:
        """New axes; all in inches from the upper left corner of the figure."""
        return self.figure.add_axes(_box_of_axes(self.height, left, top, width, tall))

    def write(self, left: float, top: float, text: str, **style) -> None:
        self.figure.text(left / WIDTH, 1 - top / self.height, text, **({"va": "top"} | style))

    def middle(self, first: int, last: int) -> float:
        """Of the columns from the first to the last, counted from that of the pictures."""
        return (self.lefts[first] + self.lefts[last] + self.panel_width) / 2


def make_sheet(
    places: Sequence[Place],
    titles: Sequence[str],
    headings: Sequence[str],
    title: str,
    note: str,
    under: float = 0.0,
    legend: float = 0.0,
) -> Sheet:
    """Lay out a page and draw the slides on it.

    Args:
        places, titles: of each slide. headings: of the columns beside the pictures. title: of the page; note: at its
        end. under: inches left under each row of panels; legend: inches between the last row and the note.
    """
    columns = 1 + len(headings)
    panel_width = (WIDTH - 2 * LEFT - (columns - 1) * GAP) / columns
    lefts = [LEFT + k * (panel_width + GAP) for k in range(columns)]
    boxes = [box_of(place) for place in places]
    tall = [panel_width * np.clip((box[3] - box[1]) / (box[2] - box[0]), FLATTEST, TALLEST) for box in boxes]
    title_lines = textwrap.wrap(title, int(WIDTH * CHARACTERS_PER_INCH * 8 / 9)) or [""]
    lines = textwrap.wrap(note, NOTE_LENGTH)
    top = TOP + len(title_lines) * TITLE_LINE
    rows = sum(tall) + len(places) * (ROW_TITLE + under)
    end = top + HEADINGS + rows
    height = end + legend + 0.08 + len(lines) * LINE + 0.1
    figure = Figure(figsize=(WIDTH, height))
    sheet = Sheet(figure, [], boxes, lefts, panel_width, height, [])
    sheet.write(LEFT, TOP, "\n".join(title_lines), fontsize=9)
    for left, heading in zip(lefts, ["Slide, with scale bar", *headings]):
        sheet.write(left + panel_width / 2, top + 0.1, heading, ha="center", weight="bold")
    top += HEADINGS
    for place, name, box, size in zip(places, titles, boxes, tall, strict=True):
        sheet.write(LEFT, top + 0.08, name)
        top += ROW_TITLE
        slide = sheet.axes_at(lefts[0], top, panel_width, size)
        draw_thumbnail(slide, place, box)
        draw_scale(slide, place, box)
        sheet.panels.append([sheet.axes_at(left, top, panel_width, size) for left in lefts[1:]])
        sheet.ends.append(top + size)
        top += size + under
    sheet.write(LEFT, top + legend + 0.08, "\n".join(lines), fontsize=7, color=GREY, linespacing=1.25)
    return sheet


def _box_of_axes(height: float, left: float, top: float, width: float, tall: float) -> tuple[float, ...]:
    return left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height

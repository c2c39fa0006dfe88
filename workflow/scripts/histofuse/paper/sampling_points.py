"""Figure of the points that attention reads: over the slide, in the tile that lies at each point's place of the map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histofuse.paper.slide_places import Place, choose_slides, picture, place_of_tiles, show, title_of
from histofuse.paper.slide_sheet import Sheet, make_sheet
from histofuse.paper.style import COLOURS, GREY, STYLE

LOOKS = COLOURS[1:]  # branches have the same colours in other figures
UNDER, LEGEND = 0.2, 0.3  # inches under each row for what lies off the map, and for the legend
FILLED = 0.25  # of a square panel, which all points of a panel would cover were each to get the same attention
LARGEST_DOT = 16.0  # of a point with an equal share, square points (1/72 inch)
FACTORS = (0.2, 1.0, 5.0)  # of an equal share, in the legend; no dot is drawn larger than 2 × the last or smaller
NOTE = (
    "Each head of an attention reads the slide, laid out as a square map of tiles, at points that shift with what is "
    "asked of it. Neighbours on the map are neighbours in the list of tiles, and not everywhere neighbours in tissue: "
    "a point is drawn in the tile whose place is nearest, as far from the tile's middle as from that of the place, and "
    "where a tile stands several times on the map, all its points are drawn in it. Area: the attention that the point "
    "gets (mean over the places that ask). Points off the map read nothing."
)


@dataclass(frozen=True)
class Panel:
    """A slide to show: its title, its place, and {name: points} with `x, y` (level-0 pixels, NaN off the map) and
    `share`, the attention relative to an equal share."""

    title: str
    place: Place
    points: dict[str, pd.DataFrame]


def make_panels(
    points: pd.DataFrame, predictions: pd.DataFrame, files: dict[str, Path], classes: Sequence[str] = ()
) -> list[Panel]:
    """Panels of the chosen slides from a table of points (`training.sampling_points`)."""
    slides = points[["slide_id", "case_id"]].drop_duplicates()
    slides = slides[slides["slide_id"].isin(list(files))]
    panels = []
    for row in choose_slides(predictions, slides).itertuples():
        of_slide = points[points["slide_id"] == row.slide_id]
        place = place_of_tiles(files[row.slide_id], of_slide["stored"])
        located = {name: locate(some, place) for name, some in of_slide.groupby("name", sort=False)}
        panels.append(Panel(title_of(row, classes), place, located))
    return panels


def locate(points: pd.DataFrame, place: Place) -> pd.DataFrame:
    """`x, y` on the slide and `share` of points of one slide and name, the largest share first."""
    off_place = points[["column", "row"]].to_numpy() - np.rint(points[["column", "row"]].to_numpy())
    tile = points["tile"].to_numpy()
    at = place.coords[tile] + place.side * (0.5 + off_place)
    at[tile < 0] = np.nan
    found = pd.DataFrame({"x": at[:, 0], "y": at[:, 1], "share": points["attention"].to_numpy() * len(points)})
    return found.sort_values("share", ascending=False, ignore_index=True)


def off_map(points: pd.DataFrame) -> str:
    """How many points lie off the map, and how much of the attention they get, in words."""
    off = points["x"].isna()
    if not off.any():
        return "all points lie on the map"
    of_attention = points.loc[off, "share"].sum() / points["share"].sum()
    return f"{percent(off.mean())} of points, {percent(of_attention)} of attention off the map"


def percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def sampling_figure(panels: Sequence[Panel], title: str, note: str = NOTE) -> Figure:
    """A row per slide: the thumbnail, and the points of each attention over its faded picture."""
    names = list(panels[0].points)
    looks = dict(zip(names, LOOKS))
    with mpl.rc_context(STYLE):
        places, titles = [panel.place for panel in panels], [panel.title for panel in panels]
        headings = [f"Points: {name.replace('_', ' ')}" for name in names]
        sheet = make_sheet(places, titles, headings, title, note, under=UNDER, legend=LEGEND)
        most = max(len(points) for panel in panels for points in panel.points.values())
        area = min(FILLED * (72 * sheet.panel_width) ** 2 / most, LARGEST_DOT)
        for panel, box, row, end in zip(panels, sheet.boxes, sheet.panels, sheet.ends):
            faded = 255 - 0.5 * (255 - picture(panel.place, box).astype(float))
            for k, (axes, name) in enumerate(zip(row, names)):
                show(axes, faded.astype(np.uint8), box)
                _draw_points(axes, panel.points[name], area, looks[name])
                axes.set(xlim=(box[0], box[2]), ylim=(box[3], box[1]))
                said = off_map(panel.points[name])
                sheet.write(sheet.middle(1 + k, 1 + k), end + 0.04, said, ha="center", fontsize=7, color=GREY)
        _draw_legend(sheet, area)
    return sheet.figure


def _draw_points(axes, points: pd.DataFrame, area: float, colour: str) -> None:
    size = area * points["share"].clip(FACTORS[0] / 2, FACTORS[-1] * 2)
    axes.scatter(points["x"], points["y"], size, color=colour, alpha=0.6, edgecolors="white", linewidths=0.3)


def _draw_legend(sheet: Sheet, area: float) -> None:
    """Dots of three sizes, in the middle under the panels of points."""
    width = 2.6
    middle = sheet.middle(1, len(sheet.lefts) - 1)
    axes = sheet.axes_at(middle - width / 2, sheet.ends[-1] + UNDER + 0.02, width, 0.22)
    axes.set(xlim=(0, width), ylim=(0, 1))
    axes.axis("off")
    axes.text(0, 0.5, "Attention, of an equal share:", va="center", fontsize=7)
    for x, factor in zip((1.55, 1.9, 2.25), FACTORS):
        axes.scatter(x, 0.5, area * factor, color=GREY, edgecolors="white", linewidths=0.3)
        axes.text(x + 0.05 + math.sqrt(area * factor) / 144, 0.5, f"{factor:g}×", va="center", fontsize=7)

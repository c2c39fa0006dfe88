"""Heatmaps: where on a slide a model looks, and what each place says, beside the slide itself.

All slides of a figure share their colour scales, and all kinds of attention share one, so that tumour and
microenvironment can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from histofuse.paper.slide_places import Place, choose_slides, picture, place_of_tiles, raster_of, show, title_of
from histofuse.paper.slide_sheet import Sheet, make_sheet
from histofuse.paper.style import STYLE

BOOKKEEPING = ["slide_id", "case_id", "part", "tile", "count", "stored"]
SIGNED = {
    "log_hazard": "Log hazard",
    "log_odds_of_death": "Log odds of death in an interval",
    "log_odds_of_class": "Log odds of the predicted class",
}
BAR = 0.68  # inches for the colour bars


@dataclass(frozen=True)
class Panel:
    """A slide to show: its title, its place and the scores {name: float [tile]} of its tiles."""

    title: str
    place: Place
    scores: dict[str, np.ndarray]


def make_panels(
    scores: pd.DataFrame, predictions: pd.DataFrame, files: dict[str, Path], classes: Sequence[str] = ()
) -> list[Panel]:
    """Panels of the chosen slides from a table of tile scores (`training.tile_scores`), with attention per place."""
    slides = scores[["slide_id", "case_id"]].drop_duplicates()
    slides = slides[slides["slide_id"].isin(list(files))]
    panels = []
    for row in choose_slides(predictions, slides).itertuples():
        tiles = scores[scores["slide_id"] == row.slide_id].sort_values("tile")
        place = place_of_tiles(files[row.slide_id], tiles["stored"])
        place = replace(place, coords=place.coords[tiles["tile"]])  # a map of fixed size may leave some out
        values = {name: tiles[name].to_numpy(np.float64) for name in scores if name not in BOOKKEEPING}
        count = tiles["count"].to_numpy(np.float64)
        for name in values:
            if _is_attention(name):  # of one copy of the tile, relative to equal weights in the bag
                values[name] = values[name] / count * count.sum()
        panels.append(Panel(title_of(row, classes), place, values))
    return panels


def note_on(panels: Sequence[Panel], hidden: int, of: int, classes: bool = False) -> str:
    """What the figure shows, in sentences; `hidden` of `of` test slides have no coordinates."""
    what = "surest and the least sure predictions" if classes else "highest and the lowest predicted risk"
    text = [f"Test slides with the {what}, chosen without looking at outcomes; cropped to their tiles."]
    names = list(panels[0].scores)
    if "attention" in names:
        text.append("Attention: a tile's weight in the vector of the slide, 1 where all tiles had the same weight.")
    elif any(_is_attention(name) for name in names):
        text.append("Attention: a tile's share of what the slide's tiles get of each kind, 1 where all get the same.")
    for name in set(SIGNED) & set(names):  # at most one
        text.append(
            f"{SIGNED[name]}: what the tile alone contributes through the model's image branch; a slide's "
            "value is the mean over its tiles, weighted by attention; 0 is the average slide of the training part."
        )
    if any(stride(panel.place) > 1.5 for panel in panels):
        text.append("Of a large slide not every tile is used; each colours the gap around it too.")
    if hidden:
        text.append(f"{hidden} of {of} test slides have no tile coordinates and could not be chosen.")
    return " ".join(text)


def heatmap_figure(panels: Sequence[Panel], title: str, note: str) -> Figure:
    """A row per slide: the thumbnail, and a heatmap of each score; colour bars below, shared by all rows."""
    names = list(panels[0].scores)
    scales = _scales(panels)
    with mpl.rc_context(STYLE):
        places, titles = [panel.place for panel in panels], [panel.title for panel in panels]
        sheet = make_sheet(places, titles, [_heading(name) for name in names], title, note, legend=BAR)
        for panel, box, row in zip(panels, sheet.boxes, sheet.panels):
            for axes, name in zip(row, names):
                _draw_heatmap(axes, panel, name, box, *scales[name])
        attention = [name for name in names if _is_attention(name)]
        for bar in [attention] * bool(attention) + [[name] for name in names if name not in attention]:
            _draw_bar(sheet, [1 + names.index(name) for name in bar], bar[0], *scales[bar[0]])
    return sheet.figure


def stride(place: Place) -> float:
    """How many tiles of a row, in the mean, one stored tile stands for: 1 for a gapless grid, k if every k-th was kept.

    Gaps between pieces of tissue are far wider than those of a thinned grid, and are left out.
    """
    coords = place.coords[np.lexsort(place.coords.T)]
    gaps = np.diff(coords[:, 0])[np.diff(coords[:, 1]) == 0] / place.side
    if not len(gaps) or np.median(gaps) <= 1:  # neighbours, but for holes in the tissue
        return 1.0
    return float(gaps[gaps <= 3 * np.median(gaps)].mean())


def paint(place: Place, values: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The tiles' values on a raster that covers `box` (left, top, right, bottom, in level-0 pixels): float64 [h, w].

    A pixel shows the nearest tile that holds it and is NaN where there is none. Tiles of a thinned grid are drawn
    larger, until they close the gaps between them.
    """
    reach = place.side / 2 * np.ceil(stride(place) - 0.05)
    y, x = (box[k] + (np.arange(n) + 0.5) / n * (box[k + 2] - box[k]) for k, n in zip((1, 0), shape))
    pixels = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1).reshape(-1, 2)
    centres = cKDTree(place.coords + place.side / 2)
    distance, nearest = centres.query(pixels, p=np.inf, distance_upper_bound=reach * (1 + 1e-9))
    found = np.isfinite(distance)
    raster = np.full(len(pixels), np.nan)
    raster[found] = values[nearest[found]]
    return raster.reshape(shape)


def _is_attention(name: str) -> bool:
    return name.startswith("attention")


def _draw_heatmap(axes, panel: Panel, name: str, box: np.ndarray, norm: Normalize, cmap: str) -> None:
    grey = picture(panel.place, box).mean(axis=2)
    show(axes, 255 - 0.4 * (255 - grey), box, cmap="gray", vmin=0, vmax=255)
    values = paint(panel.place, panel.scores[name], box, raster_of(box))
    show(axes, np.ma.masked_invalid(values), box, cmap=cmap, norm=norm, interpolation="nearest")


def _heading(name: str) -> str:
    """Of a score's column: "Attention: tumour" of attention_tumour."""
    kind, _, of = name.partition("_")
    if kind == "attention" and of:
        return f"Attention: {of.replace('_', ' ')}"
    return SIGNED.get(name, name.replace("_", " ").capitalize())


def _scales(panels: Sequence[Panel]) -> dict[str, tuple[Normalize, str]]:
    """{score: its scale over all slides, its colour map}; a few extreme tiles lie beyond the ends."""
    names = list(panels[0].scores)
    attention = [name for name in names if _is_attention(name)]
    scales = {}
    for name in names:
        together = attention if name in attention else [name]
        values = np.concatenate([panel.scores[of] for panel in panels for of in together])
        low, high = np.percentile(values, [1, 99])
        if name in attention:  # factors, at least from a half to twice
            tiny = 1e-3
            scales[name] = LogNorm(min(max(low, tiny), 0.5), max(high, 2.0)), "viridis"
        elif name in SIGNED:
            scales[name] = CenteredNorm(0, max(abs(low), abs(high), 0.1)), "coolwarm"
        else:
            scales[name] = Normalize(low, high if high > low else low + 1), "viridis"
    return scales


def _draw_bar(sheet: Sheet, columns: Sequence[int], name: str, norm: Normalize, cmap: str) -> None:
    """A colour bar in the middle under the columns that it is for."""
    width, middle = 0.8 * sheet.panel_width, sheet.middle(columns[0], columns[-1])
    axes = sheet.axes_at(middle - width / 2, sheet.ends[-1] + 0.08, width, 0.08)
    bar = sheet.figure.colorbar(mpl.cm.ScalarMappable(norm, cmap), cax=axes, orientation="horizontal", extend="both")
    label = _heading(name)
    if name in SIGNED:
        label += "\n0: the average training slide"
    if _is_attention(name):
        label = "Attention\n1×: equal weights"
        wide = norm.vmax > 100 * norm.vmin
        ticks = 10.0 ** np.arange(-3, 5) if wide else np.array([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
        ticks = ticks[(ticks >= norm.vmin) & (ticks <= norm.vmax)]
        bar.set_ticks(ticks, labels=[f"{t:g}×" for t in ticks])
        bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_linewidth(0.5)
    bar.set_label(label, fontsize=7)

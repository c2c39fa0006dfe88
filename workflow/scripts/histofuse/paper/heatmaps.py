"""Heatmaps: where on a slide a model looks, and what each place says, beside the slide itself.

Which slides are shown follows from the predictions alone, never from outcomes. All slides of a figure share their
colour scales.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy.spatial import cKDTree

from histofuse.io import InputError
from histofuse.paper.style import BLACK, GREY, STYLE

BOOKKEEPING = ["slide_id", "case_id", "part", "tile", "count"]
SIGNED = {
    "log_hazard": "Log hazard",
    "log_odds_of_death": "Log odds of death in an interval",
    "log_odds_of_class": "Log odds of the predicted class",
}
UUID = re.compile(r"\.[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")  # that GDC's names of slides end in
PER_END = 2  # slides of the highest and of the lowest predicted risk
# The figure, in inches: a page's width, and what lies around and between the panels.
WIDTH, LEFT, GAP, HEADER, ROW_TITLE, BAR = 7.0, 0.05, 0.12, 0.34, 0.28, 0.75
LINE, NOTE_LENGTH = 0.13, 145  # height of a line of the note, and how many characters it holds
TALLEST, FLATTEST = 1.2, 0.3  # height of a panel, relative to its width
PANEL_PX = 640  # the longer side of the picture in a panel, at most
MARGIN = 0.03  # shown around the tiles beside the side of one, relative to the longer side of what they cover


@dataclass(frozen=True)
class Place:
    """Where a slide's stored tiles lie: coords int64 [tile, 2] and side, in level-0 pixels; the slide's width, height
    and µm/px (NaN where the file does not say it); thumbnail uint8 [h, w, 3] of the whole slide, or None."""

    coords: np.ndarray
    side: int
    width: int
    height: int
    mpp: float
    thumbnail: np.ndarray | None


@dataclass(frozen=True)
class Panel:
    """A slide to show: its title, its place and the scores {name: float [tile]} of its tiles."""

    title: str
    place: Place
    scores: dict[str, np.ndarray]


def find_places(folders: Sequence[str | Path], slides: Sequence[str]) -> dict[str, Path]:
    """{slide_id: HDF5 file of its features} of those slides that lie in one of the folders with coordinates."""
    files = {}
    for slide in slides:
        for path in (Path(folder) / f"{slide}.h5" for folder in folders):
            if path.is_file() and _has_coordinates(path):
                files[slide] = path
    return files


def read_place(path: str | Path) -> Place:
    """The tiles' place from an HDF5 file of features, and the thumbnail `{slide_id}.thumbnail.jpg` beside it."""
    path = Path(path)
    with h5py.File(path, "r") as file:
        coords, attributes = file["coords"][()], dict(file["coords"].attrs)
    if coords.ndim == 3 and len(coords) == 1:  # older TRIDENT files
        coords = coords[0]
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise InputError(f"{path}: 'coords' must be [tiles, 2], not {coords.shape}")
    picture = path.with_name(f"{path.stem}.thumbnail.jpg")
    thumbnail = None
    if picture.is_file():
        with Image.open(picture) as image:
            thumbnail = np.asarray(image.convert("RGB"))
    side = int(attributes["patch_size_level0"])
    width, height = (
        int(attributes.get(f"level0_{name}", coords[:, axis].max() + side))
        for axis, name in enumerate(("width", "height"))
    )
    return Place(coords.astype(np.int64), side, width, height, float(attributes.get("level0_mpp", np.nan)), thumbnail)


def choose_slides(predictions: pd.DataFrame, slides: pd.DataFrame) -> pd.DataFrame:
    """The test slides to show: those of the `PER_END` highest and of the as many lowest predictions, a slide per case.

    Args:
        predictions: a run's, one row per case. slides: `slide_id, case_id` of those that can be shown.
    Returns: `slide_id, case_id, end` ("highest", "lowest"), `value` (risk, or the probability of the predicted class),
        `percentile` (0 to 100, of the value among all test cases) and `label` (the predicted class, otherwise NA), from
        the highest value to the lowest. Neither outcomes nor labels are looked at.
    """
    test = predictions[predictions["part"] == "test"].copy()
    classes = test["risk"].isna().all()
    test["value"] = test["probabilities"].map(np.max) if classes else test["risk"]
    test["label"] = test["probabilities"].map(np.argmax) if classes else pd.NA
    test["percentile"] = 100 * (test["value"].rank() - 0.5) / len(test)
    first = slides.sort_values("slide_id").drop_duplicates("case_id")
    shown = test.merge(first[["slide_id", "case_id"]], on="case_id")
    if shown.empty:
        raise InputError("heatmaps: no slide of the test part has coordinates; take the model off `heatmaps`")
    shown = shown.sort_values(["value", "case_id"], ascending=[False, True], ignore_index=True)
    n = len(shown)
    ends = sorted({*range(min(PER_END, n)), *range(max(n - PER_END, 0), n)})
    shown = shown.iloc[ends]
    shown["end"] = np.where(shown["value"].rank() > len(shown) / 2, "highest", "lowest")
    return shown[["slide_id", "case_id", "end", "value", "percentile", "label"]].reset_index(drop=True)


def make_panels(
    scores: pd.DataFrame, predictions: pd.DataFrame, files: dict[str, Path], classes: Sequence[str] = ()
) -> list[Panel]:
    """Panels of the chosen slides from a table of tile scores (`training.tile_scores`), with attention per place."""
    slides = scores[["slide_id", "case_id"]].drop_duplicates()
    slides = slides[slides["slide_id"].isin(list(files))]
    panels = []
    for row in choose_slides(predictions, slides).itertuples():
        place, tiles = read_place(files[row.slide_id]), scores[scores["slide_id"] == row.slide_id].sort_values("tile")
        if len(tiles) != len(place.coords):
            raise InputError(
                f"{files[row.slide_id]}: {len(place.coords)} tiles, but {len(tiles)} have scores; "
                "encode the slides and train again"
            )
        values = {name: tiles[name].to_numpy(np.float64) for name in scores if name not in BOOKKEEPING}
        count = tiles["count"].to_numpy(np.float64)
        for name in values:
            if _is_attention(name):  # of one copy of the tile, relative to equal weights in the bag
                values[name] = values[name] / count * count.sum()
        panels.append(Panel(_title(row, classes), place, values))
    return panels


def note_on(panels: Sequence[Panel], hidden: int, of: int, classes: bool = False) -> str:
    """What the figure shows, in sentences; `hidden` of `of` test slides have no coordinates."""
    what = "surest and the least sure predictions" if classes else "highest and the lowest predicted risk"
    text = [f"Test slides with the {what}, chosen without looking at outcomes; cropped to their tiles."]
    names = list(panels[0].scores)
    if any(_is_attention(name) for name in names):
        text.append("Attention: a tile's weight in the vector of the slide, 1 where all tiles had the same weight.")
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
    columns = 1 + len(names)
    panel_width = (WIDTH - 2 * LEFT - (columns - 1) * GAP) / columns
    boxes = [_box(panel.place) for panel in panels]
    heights = [panel_width * np.clip((box[3] - box[1]) / (box[2] - box[0]), FLATTEST, TALLEST) for box in boxes]
    lines = textwrap.wrap(note, NOTE_LENGTH)
    height = HEADER + sum(heights) + len(panels) * ROW_TITLE + BAR + len(lines) * LINE + 0.1
    colours = {name: _colours(name, [panel.scores[name] for panel in panels]) for name in names}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))

        def axes_at(left: float, top: float, width: float, tall: float):
            return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))

        def text_at(left: float, top: float, text: str, **style):
            figure.text(left / WIDTH, 1 - top / height, text, va="top", **style)

        text_at(LEFT, 0.06, title, fontsize=9)
        lefts = [LEFT + k * (panel_width + GAP) for k in range(columns)]
        top = HEADER
        for panel, box, tall in zip(panels, boxes, heights, strict=True):
            text_at(LEFT, top + 0.08, panel.title)
            top += ROW_TITLE
            slide = axes_at(lefts[0], top, panel_width, tall)
            _draw_thumbnail(slide, panel.place, box)
            _draw_scale(slide, panel.place, box)
            for left, name in zip(lefts[1:], names):
                _draw_heatmap(axes_at(left, top, panel_width, tall), panel, name, box, *colours[name])
            top += tall
        for left, name in zip(lefts[1:], names):
            bar = axes_at(left + 0.1 * panel_width, top + 0.08, 0.8 * panel_width, 0.08)
            _draw_bar(figure, bar, name, *colours[name])
        text_at(lefts[0], top + 0.08, "Slide, with scale bar")
        text_at(LEFT, top + BAR, "\n".join(lines), fontsize=7, color=GREY, linespacing=1.25)
    return figure


def stride(place: Place) -> float:
    """How many tiles of a row, in the mean, one stored tile stands for: 1 for a gapless grid, k if every k-th was kept.

    Gaps between pieces of tissue are far wider than those of a thinned grid, and are left out.
    """
    coords = place.coords[np.lexsort(place.coords.T)]
    gaps = np.diff(coords[:, 0])[np.diff(coords[:, 1]) == 0] / place.side
    if not len(gaps):
        return 1.0
    return max(1.0, float(gaps[gaps <= 3 * np.median(gaps)].mean()))


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


def _has_coordinates(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "coords" in file and "patch_size_level0" in file["coords"].attrs
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error}); encode the slide again") from error


def _is_attention(name: str) -> bool:
    return name.startswith("attention")


def _title(row, classes: Sequence[str]) -> str:
    """Of a slide's row: its id without the UUID that GDC appends, and its prediction."""
    name = UUID.sub("", row.slide_id)
    if len(classes):
        said = f"predicted {classes[row.label]}, probability {row.value:.2f}"
        return f"{name}: {said} (percentile {row.percentile:.0f} of the test cases' certainty)"
    risk = f"{row.value:.2f}".replace("-", "−")
    return f"{name}: {row.end} predicted risk, {risk} (percentile {row.percentile:.0f} of the test cases)"


def _box(place: Place) -> np.ndarray:
    """What is shown of a slide: its tiles and a margin, (left, top, right, bottom) in level-0 pixels."""
    low, high = place.coords.min(axis=0), place.coords.max(axis=0) + place.side
    margin = place.side + MARGIN * (high - low).max()
    return np.array([*np.maximum(low - margin, 0), *np.minimum(high + margin, [place.width, place.height])])


def _raster(box: np.ndarray) -> tuple[int, int]:
    """(rows, columns) of the picture of a box."""
    sides = box[2:] - box[:2]
    columns, rows = np.maximum(np.rint(sides * PANEL_PX / sides.max()), 1).astype(int)
    return int(rows), int(columns)


def _picture(place: Place, box: np.ndarray) -> np.ndarray:
    """The thumbnail inside a box, uint8 [h, w, 3]; white where there is none."""
    rows, columns = _raster(box)
    if place.thumbnail is None:
        return np.full((rows, columns, 3), 255, np.uint8)
    scale = np.array(place.thumbnail.shape[1::-1]) / [place.width, place.height]
    image = Image.fromarray(place.thumbnail)
    return np.asarray(
        image.resize((columns, rows), Image.Resampling.LANCZOS, box=tuple((box.reshape(2, 2) * scale).ravel()))
    )


def _show(axes, image, box: np.ndarray, **style) -> None:
    axes.imshow(image, extent=(box[0], box[2], box[3], box[1]), aspect="equal", **style)
    axes.set(xticks=[], yticks=[], anchor="NW")
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB", linewidth=0.5)


def _draw_thumbnail(axes, place: Place, box: np.ndarray) -> None:
    _show(axes, _picture(place, box), box)
    if place.thumbnail is None:
        axes.text(0.5, 0.5, "no thumbnail", transform=axes.transAxes, ha="center", va="center", color=GREY)


def _draw_scale(axes, place: Place, box: np.ndarray) -> None:
    """A bar of a round length in mm, about a quarter of the picture's width, where the resolution is known."""
    if not place.mpp > 0:
        return
    width = (box[2] - box[0]) * place.mpp / 1000
    length = max(step * 10.0**power for power in range(-4, 3) for step in (1, 2, 5) if step * 10.0**power <= width / 3)
    left, bottom = box[0] + 0.04 * (box[2] - box[0]), box[3] - 0.05 * (box[3] - box[1])
    style = {"color": BLACK, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    axes.plot([left, left + length / place.mpp * 1000], [bottom, bottom], linewidth=1.5, solid_capstyle="butt", **style)
    axes.annotate(f"{length:g} mm", (left, bottom), (0, 2.5), textcoords="offset points", fontsize=7, **style)


def _draw_heatmap(axes, panel: Panel, name: str, box: np.ndarray, norm: Normalize, cmap: str) -> None:
    grey = _picture(panel.place, box).mean(axis=2)
    _show(axes, 255 - 0.4 * (255 - grey), box, cmap="gray", vmin=0, vmax=255)
    values = paint(panel.place, panel.scores[name], box, _raster(box))
    _show(axes, np.ma.masked_invalid(values), box, cmap=cmap, norm=norm, interpolation="nearest")


def _colours(name: str, values: Sequence[np.ndarray]) -> tuple[Normalize, str]:
    """The scale of a score over all slides of a figure and its colour map; a few extreme tiles lie beyond the ends."""
    together = np.concatenate(values)
    low, high = np.percentile(together, [1, 99])
    if _is_attention(name):  # factors, at least from a half to twice
        tiny = 1e-3
        return LogNorm(min(max(low, tiny), 0.5), max(high, 2.0)), "viridis"
    if name in SIGNED:
        return CenteredNorm(0, max(abs(low), abs(high), 0.1)), "coolwarm"
    return Normalize(low, high if high > low else low + 1), "viridis"


def _draw_bar(figure: Figure, axes, name: str, norm: Normalize, cmap: str) -> None:
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, cmap), cax=axes, orientation="horizontal", extend="both")
    head, unit = SIGNED.get(name, name.replace("_", " ").capitalize()), ""
    if name in SIGNED:
        unit = "0: the average training slide"
    if _is_attention(name):
        unit = "1×: equal weights"
        wide = norm.vmax > 100 * norm.vmin
        ticks = 10.0 ** np.arange(-3, 5) if wide else np.array([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
        ticks = ticks[(ticks >= norm.vmin) & (ticks <= norm.vmax)]
        bar.set_ticks(ticks, labels=[f"{t:g}×" for t in ticks])
        bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_linewidth(0.5)
    bar.set_label(f"{head}\n{unit}" if unit else head, fontsize=7)

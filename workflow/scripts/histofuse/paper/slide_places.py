"""Test slides in figures: which are shown, where their tiles lie, and the pictures that anything is drawn on.

Which slides are shown follows from the predictions alone, never from outcomes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke
from PIL import Image

from histofuse.io import InputError
from histofuse.paper.style import BLACK, GREY

UUID = re.compile(r"\.[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")  # that GDC's names of slides end in
PER_END = 2  # slides of the highest and of the lowest predicted risk
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


def place_of_tiles(path: Path, stored: pd.Series) -> Place:
    """The place of a slide of which a run has read `stored` tiles (the same number in each line).

    Raises InputError when the file holds another number.
    """
    place = read_place(path)
    if len(place.coords) != stored.iloc[0]:
        raise InputError(
            f"{path}: {len(place.coords)} tiles, but the run has read a slide of {stored.iloc[0]}; "
            "encode the slides and train again"
        )
    return place


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
        raise InputError(
            "no slide of the test part has coordinates; take the model off the table's `heatmaps` and `sampling_points`"
        )
    shown = shown.sort_values(["value", "case_id"], ascending=[False, True], ignore_index=True)
    n = len(shown)
    ends = sorted({*range(min(PER_END, n)), *range(max(n - PER_END, 0), n)})
    shown = shown.iloc[ends]
    shown["end"] = np.where(shown["value"].rank() > len(shown) / 2, "highest", "lowest")
    return shown[["slide_id", "case_id", "end", "value", "percentile", "label"]].reset_index(drop=True)


def title_of(row, classes: Sequence[str]) -> str:
    """Of a slide's row: its id without the UUID that GDC appends, and its prediction."""
    name = UUID.sub("", row.slide_id)
    if len(classes):
        said = f"predicted {classes[row.label]}, probability {row.value:.2f}"
        return f"{name}: {said} (percentile {row.percentile:.0f} of the test cases' certainty)"
    risk = f"{row.value:.2f}".replace("-", "−")
    return f"{name}: {row.end} predicted risk, {risk} (percentile {row.percentile:.0f} of the test cases)"


def box_of(place: Place) -> np.ndarray:
    """What is shown of a slide: its tiles and a margin, (left, top, right, bottom) in level-0 pixels."""
    low, high = place.coords.min(axis=0), place.coords.max(axis=0) + place.side
    margin = place.side + MARGIN * (high - low).max()
    return np.array([*np.maximum(low - margin, 0), *np.minimum(high + margin, [place.width, place.height])])


def raster_of(box: np.ndarray) -> tuple[int, int]:
    """(rows, columns) of the picture of a box."""
    sides = box[2:] - box[:2]
    columns, rows = np.maximum(np.rint(sides * PANEL_PX / sides.max()), 1).astype(int)
    return int(rows), int(columns)


def picture(place: Place, box: np.ndarray) -> np.ndarray:
    """The thumbnail inside a box, uint8 [h, w, 3]; white where there is none."""
    rows, columns = raster_of(box)
    if place.thumbnail is None:
        return np.full((rows, columns, 3), 255, np.uint8)
    scale = np.array(place.thumbnail.shape[1::-1]) / [place.width, place.height]
    image = Image.fromarray(place.thumbnail)
    return np.asarray(
        image.resize((columns, rows), Image.Resampling.LANCZOS, box=tuple((box.reshape(2, 2) * scale).ravel()))
    )


def show(axes, image, box: np.ndarray, **style) -> None:
    axes.imshow(image, extent=(box[0], box[2], box[3], box[1]), aspect="equal", **style)
    axes.set(xticks=[], yticks=[], anchor="NW")
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB", linewidth=0.5)


def draw_thumbnail(axes, place: Place, box: np.ndarray) -> None:
    show(axes, picture(place, box), box)
    if place.thumbnail is None:
        axes.text(0.5, 0.5, "no thumbnail", transform=axes.transAxes, ha="center", va="center", color=GREY)


def draw_scale(axes, place: Place, box: np.ndarray) -> None:
    """A bar of a round length in mm, about a quarter of the picture's width, where the resolution is known."""
    if not place.mpp > 0:
        return
    width = (box[2] - box[0]) * place.mpp / 1000
    length = max(step * 10.0**power for power in range(-4, 3) for step in (1, 2, 5) if step * 10.0**power <= width / 3)
    left, bottom = box[0] + 0.04 * (box[2] - box[0]), box[3] - 0.05 * (box[3] - box[1])
    style = {"color": BLACK, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    axes.plot([left, left + length / place.mpp * 1000], [bottom, bottom], linewidth=1.5, solid_capstyle="butt", **style)
    axes.annotate(f"{length:g} mm", (left, bottom), (0, 2.5), textcoords="offset points", fontsize=7, **style)


def _has_coordinates(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "coords" in file and "patch_size_level0" in file["coords"].attrs
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error}); encode the slide again") from error

"""Which tiles of a slide are used."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from histofuse.slides.quality import QUALITY, Survey
from histofuse.slides.reader import Slide, SlideError

# Columns of `choose_tiles` beside the corner: shares of a tile's area.
SHARES = ("tissue", "blurred", "pen", "fold", "black")
# What a bad tile is called in a slide's reason, in the order in which criteria are named.
FAULTS = {"blurred": "blurred", "pen": "inked", "fold": "folded", "black": "black or missing"}
# Summed areas carry rounding errors: a tile exactly at a limit must not depend on them.
ROUNDING = 1e-6


def choose_tiles(survey: Survey, slide: Slide, settings: dict) -> pd.DataFrame:
    """The tiles of a gapless grid that lie wholly on the slide, hold enough tissue and are not too bad.

    Settings: `mpp` (µm/px) and `tile_px` of a tile; `min_tissue`, the least share of tissue in a tile; `quality`, whose
    `max_blurred` and `max_fold` limit shares of the tile's tissue, `max_pen` and `max_black` shares of its area
    (defaults in `quality.QUALITY`).

    Returns a row per tile, in raster order (row by row): `x, y` int64, the corner in level-0 pixels, and float64 shares
    of the tile's area, 0 to 1: `tissue, blurred, pen, fold, black`.

    Raises SlideError when no tile is left; the reason says which criterion took the last ones.
    """
    if not survey.tissue.any():
        raise SlideError(_no_tissue(survey))
    limits = QUALITY | settings["quality"]
    side = slide.footprint(settings["tile_px"], settings["mpp"])
    maps = [getattr(survey, name) for name in SHARES]
    coords, shares = grid_shares(maps, survey.mpp / slide.mpp, slide.width, slide.height, side)
    tiles = pd.DataFrame(coords, columns=["x", "y"]).assign(**dict(zip(SHARES, shares, strict=True)))
    tiles = tiles[tiles["tissue"] >= settings["min_tissue"] - ROUNDING]
    if tiles.empty:
        raise SlideError(f"no tile is at least {settings['min_tissue']:.0%} tissue")
    # Blur and folds are properties of tissue, so that a tile's glass does not excuse them.
    faults = {
        name: tiles[name] > limits[f"max_{name}"] * (tiles["tissue"] if name in ("blurred", "fold") else 1) + ROUNDING
        for name in FAULTS
    }
    bad = np.logical_or.reduce(list(faults.values()))
    if bad.all():
        raise SlideError(_all_bad(faults))
    return tiles[~bad].reset_index(drop=True)


def grid_shares(
    maps: list[np.ndarray], mask_pixel: float, width: int, height: int, side: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The tiles of a gapless grid that lie wholly on the slide, and what share of them each map covers.

    Parameters
    ----------
    maps : bool [rows, columns] each, covering the slide from its origin.
    mask_pixel : level-0 pixels per pixel of a map.
    width, height : the slide in level-0 pixels.
    side : side of a tile in level-0 pixels.

    Returns
    -------
    coords : int64 [n, 2], (x, y) of the upper left corner in level-0 pixels, in raster order (row by row).
    shares : for each map float64 [n], the share of a tile's area where it is True. Areas are summed once per map; a
        tile's borders may lie between its pixels.
    """
    x, y = np.arange(width // side) * side, np.arange(height // side) * side
    coords = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.int64)
    shares = []
    for values in maps:
        if not len(coords) or not values.any():
            shares.append(np.zeros(len(coords)))
            continue
        area = cv2.integral(values.view(np.uint8))
        top, bottom = (_at(area, edges / mask_pixel, axis=0) for edges in (y, y + side))
        per_row = bottom - top
        left, right = (_at(per_row, edges / mask_pixel, axis=1) for edges in (x, x + side))
        shares.append(np.clip((right - left) / (side / mask_pixel) ** 2, 0.0, 1.0).ravel())
    return coords, shares


def _at(cumulative: np.ndarray, position: np.ndarray, axis: int) -> np.ndarray:
    """A cumulative sum at fractional positions along an axis: linear between entries, flat after the end."""
    position = np.clip(position, 0, cumulative.shape[axis] - 1)
    whole = np.minimum(position.astype(np.int64), cumulative.shape[axis] - 2)
    shape = [1, 1]
    shape[axis] = -1
    part = (position - whole).reshape(shape)
    return np.take(cumulative, whole, axis) * (1 - part) + np.take(cumulative, whole + 1, axis) * part


def _no_tissue(survey: Survey) -> str:
    """The reason of a slide without tissue; it names ink or black where there is much."""
    for name in ("pen", "black"):
        share = getattr(survey, name).mean()
        if share > 0.01:
            return f"no tissue found ({share:.0%} of the slide is {FAULTS[name]})"
    return "no tissue found"


def _all_bad(faults: dict[str, pd.Series]) -> str:
    """The reason of a slide whose tiles all have a fault; every tile counts for its first one."""
    left = np.ones(len(next(iter(faults.values()))), bool)
    counts = []
    for name, bad in faults.items():
        n_bad = int((left & bad).sum())
        left &= ~bad
        if n_bad:
            counts.append(f"{FAULTS[name]} ({n_bad})")
    listed = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} or {counts[-1]}"
    return f"all {len(left)} tissue tiles are {listed}"

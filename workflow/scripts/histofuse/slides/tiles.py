"""Which tiles of a slide are used, and how a bag of fixed size is made of them."""

from __future__ import annotations

import math

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


def tile_grid(
    mask: np.ndarray, mask_pixel: float, width: int, height: int, side: int, min_tissue: float
) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of a gapless grid that lie wholly on the slide and hold enough tissue.

    Parameters
    ----------
    mask : bool [rows, columns], True on tissue, covering the slide from its origin.
    mask_pixel : level-0 pixels per mask pixel.
    width, height : the slide in level-0 pixels.
    side : side of a tile in level-0 pixels.
    min_tissue : smallest share of a tile's area that is tissue, 0 to 1.

    Returns
    -------
    coords : int64 [n, 2], (x, y) of the upper left corner in level-0 pixels, in raster order (row by row).
    share : float64 [n], the tissue's share of each tile's area.
    """
    coords, (share,) = grid_shares([mask], mask_pixel, width, height, side)
    enough = share >= min_tissue - ROUNDING
    return coords[enough], share[enough]


def grid_shares(
    maps: list[np.ndarray], mask_pixel: float, width: int, height: int, side: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All tiles of the grid, int64 [n, 2], and for each map the share of a tile's area where it is True, float64 [n].

    Parameters as of `tile_grid`. Areas are summed once per map; a tile's borders may lie between its pixels.
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


def repeat_index(n: int, bag: int) -> np.ndarray:
    """Which of `n` tiles (in raster order) fill a bag of fixed size: the "biological repeat" of KS-Fusion.

    With n ≤ bag the sequence is repeated whole and then by its first remainder; with n > bag, place j takes
    tile round(j·n/bag): an even stride, without randomness. Returns int64 [bag].
    """
    if n < 1 or bag < 1:
        raise ValueError(f"a bag of {bag} cannot be filled from {n} tiles: both must be at least 1")
    places = np.arange(bag, dtype=np.int64)
    return places % n if n <= bag else np.rint(places * n / bag).astype(np.int64)


def spatial_index(coords: np.ndarray, bag: int) -> np.ndarray:
    """Which tiles fill a bag of fixed size so that neighbours in tissue are neighbours on a square map.

    The bag is laid row by row on a map S tiles wide, S = ⌈√bag⌉; where bag is no square, the last row is shorter. More
    tiles than places are thinned by an even stride; fewer are repeated, each as often as every other, give or take
    one. Sorted by y they are dealt into bands of the map, as many to each as it has places, and by x within a band. A
    band is a row, or several where tiles are repeated, so that the copies of a tile form a block.

    `coords` int [n, 2] are the tiles' corners (x, y), in any order without repeats. Returns int64 [bag], rows of
    `coords`; the same set of tiles gives the same map, whatever its order.
    """
    n = len(coords)
    places = repeat_index(n, bag)
    if n < bag:
        places = np.arange(bag) * n // bag
    taken = np.lexsort((coords[:, 0], coords[:, 1]))[places]
    row, column = np.divmod(np.arange(bag), math.ceil(math.sqrt(bag)))
    band = row // max(1, round(math.sqrt(bag / n)))
    index = np.empty(bag, np.int64)
    index[np.lexsort((row, column, band))] = taken[np.lexsort((coords[taken, 1], coords[taken, 0], band))]
    return index


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

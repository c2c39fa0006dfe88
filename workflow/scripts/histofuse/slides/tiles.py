"""Which tiles of a slide are used, and how a bag of fixed size is made of them."""

from __future__ import annotations

import numpy as np


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
    x, y = np.arange(width // side) * side, np.arange(height // side) * side
    area = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    left, right = (_at(area, edges / mask_pixel, axis=1) for edges in (x, x + side))
    per_column = right - left
    top, bottom = (_at(per_column, edges / mask_pixel, axis=0) for edges in (y, y + side))
    share = (bottom - top) / (side / mask_pixel) ** 2

    # Summed areas carry rounding errors: a tile of exactly the smallest share must not depend on them.
    rows, columns = np.nonzero(share >= min_tissue - 1e-9)
    coords = np.stack([x[columns], y[rows]], axis=1).astype(np.int64)
    return coords, np.clip(share[rows, columns], 0.0, 1.0)


def repeat_index(n: int, bag: int) -> np.ndarray:
    """Which of `n` tiles (in raster order) fill a bag of fixed size: the "biological repeat" of KS-Fusion.

    With n ≤ bag the sequence is repeated whole and then by its first remainder; with n > bag, place j takes
    tile round(j·n/bag): an even stride, without randomness. Returns int64 [bag].
    """
    if n < 1 or bag < 1:
        raise ValueError(f"a bag of {bag} cannot be filled from {n} tiles: both must be at least 1")
    places = np.arange(bag, dtype=np.int64)
    return places % n if n <= bag else np.rint(places * n / bag).astype(np.int64)


def _at(cumulative: np.ndarray, position: np.ndarray, axis: int) -> np.ndarray:
    """A cumulative sum at fractional positions along an axis: linear between entries, flat after the end."""
    position = np.clip(position, 0, cumulative.shape[axis] - 1)
    whole = np.minimum(position.astype(np.int64), cumulative.shape[axis] - 2)
    shape = [1, 1]
    shape[axis] = -1
    part = (position - whole).reshape(shape)
    return np.take(cumulative, whole, axis) * (1 - part) + np.take(cumulative, whole + 1, axis) * part

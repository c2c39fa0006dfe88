"""Bags of fixed size: which of a slide's tiles fill them, and in which order."""

from __future__ import annotations

import math

import numpy as np


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


def is_bag(name: str) -> bool:
    """Whether an input of this name is a bag of tile features: `tiles`, `tiles_10x`, …; others are tables or pixels."""
    return name == "tiles" or name.startswith("tiles_")

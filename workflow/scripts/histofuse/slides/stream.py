"""Tiles of a slide in order, normalised, read by this process or ahead of it by others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from histofuse.slides.reader import Slide, SlideError, open_slide

# Tiles that a process reads at a time: whole rows of the grid, so that neighbours share what is decoded.
BAND_TILES = 128
# Bands read ahead by each process: with 128 tiles of 224 px, 40 MB.
BANDS_AHEAD = 2


def stream_tiles(
    slide: Slide,
    path: str | Path,
    coords: np.ndarray,
    size_px: int,
    mpp: float,
    normalise: Callable[[np.ndarray], np.ndarray],
    processes: int = 0,
) -> Iterator[np.ndarray]:
    """Yield the squares at `coords` in their order, in arrays uint8 [k, size_px, size_px, 3] of any length k.

    Parameters: `slide` is the open slide and `path` its file, which other processes open for themselves. `coords`
    int64 [n, 2] are level-0 corners, ordered by y, then x (as a grid is). `normalise` maps tiles to tiles.
    With `processes` = 0 the tiles are read here, as they are asked for; else that many processes read and normalise
    ahead. The tiles are the same either way.

    Raises SlideError when the slide is damaged where a tile lies.
    """
    if processes == 0:
        yield from _in_order(slide, coords, size_px, mpp, normalise)
        return
    bands = _Bands(path, slide.mpp, coords, size_px, mpp, normalise)
    loader = DataLoader(
        bands,
        batch_size=None,
        num_workers=min(processes, len(bands)),
        prefetch_factor=BANDS_AHEAD,
        collate_fn=_unchanged,
        multiprocessing_context="fork",
    )
    for tiles in loader:
        if isinstance(tiles, str):
            raise SlideError(tiles)
        yield tiles.numpy()


def _in_order(
    slide: Slide, coords: np.ndarray, size_px: int, mpp: float, normalise: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Normalised tiles in the order of `coords`, whatever the order in which they lie in the file."""
    waiting: dict[int, np.ndarray] = {}
    following = 0
    for places, tiles in slide.tiles(coords, size_px, mpp):
        tiles = normalise(tiles)
        if places[0] == following and not waiting and (np.diff(places) == 1).all():
            following += len(places)
            yield tiles
            continue
        waiting.update(zip(places.tolist(), tiles, strict=True))
        ready = []
        while following in waiting:
            ready.append(waiting.pop(following))
            following += 1
        if ready:
            yield np.stack(ready)


class _Bands(Dataset):
    """A slide's tiles in pieces of some rows of the grid, each piece read at once."""

    def __init__(self, path, slide_mpp, coords, size_px, mpp, normalise):
        self._path, self._slide_mpp, self._normalise = path, slide_mpp, normalise
        self._size_px, self._mpp = size_px, mpp
        self._bands = _cut(coords)
        self._slide: Slide | None = None

    def __len__(self) -> int:
        return len(self._bands)

    def __getitem__(self, k: int) -> torch.Tensor | str:
        """A band's tiles, or why they cannot be read: an exception would come back wrapped in its traceback."""
        try:
            if self._slide is None:
                self._slide = open_slide(self._path, self._slide_mpp)
            parts = list(_in_order(self._slide, self._bands[k], self._size_px, self._mpp, self._normalise))
        except SlideError as error:
            return str(error)
        return torch.from_numpy(np.concatenate(parts))


def _cut(coords: np.ndarray) -> list[np.ndarray]:
    """Coordinates in pieces of whole rows with at least BAND_TILES tiles each, but for the last."""
    edges = [0, *(np.flatnonzero(np.diff(coords[:, 1])) + 1).tolist(), len(coords)]
    cuts = [0]
    for edge in edges[1:]:
        if edge - cuts[-1] >= BAND_TILES or edge == len(coords):
            cuts.append(edge)
    return [coords[first:last] for first, last in zip(cuts, cuts[1:], strict=False)]


def _unchanged(item):
    return item

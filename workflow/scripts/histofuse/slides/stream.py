"""Tiles of a slide in order, normalised, read by this process or ahead of it by others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing

from histofuse.slides.normalise import normaliser
from histofuse.slides.reader import Slide, open_slide
from histofuse.slides.stain import Stains

# Tiles that a process reads at a time: whole rows of the grid, so that neighbours share what is decoded.
BAND_TILES = 128
# Bands read ahead per process: with 128 tiles of 224 px, 40 MB.
BANDS_AHEAD = 2


class Readers:
    """Processes that read tiles ahead; use it in a `with` block, for many slides. With 0 processes there are none.

    They are forked from a server that has opened no slide, because libvips does not survive a fork of a process that
    has used it. A script that starts them needs `if __name__ == "__main__"`, as it is imported again by each.
    """

    def __init__(self, processes: int = 0):
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, function: Callable, arguments: list[tuple]) -> Iterator:
        """Results in order; at most BANDS_AHEAD calls per process are under way or waiting to be taken.

        When a process dies, fresh ones go on from the first call without a result; when one dies again,
        BrokenProcessPool is raised.
        """
        done = 0
        for last in (False, True):
            try:
                for result in self._ahead(function, arguments[done:]):
                    done += 1
                    yield result
                return
            except BrokenProcessPool:
                self._stop()
                if last:
                    raise

    def _ahead(self, function: Callable, arguments: list[tuple]) -> Iterator:
        if self._pool is None:
            context = torch.multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(self.processes, context)
        waiting: deque = deque()
        try:
            for call in arguments:
                waiting.append(self._pool.submit(function, *call))
                if len(waiting) > BANDS_AHEAD * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for call in waiting:
                call.cancel()


def stream_tiles(
    slide: Slide,
    path: str | Path,
    coords: np.ndarray,
    size_px: int,
    mpp: float,
    stains: Stains | None,
    options: dict,
    readers: Readers,
) -> Iterator[np.ndarray]:
    """Yield the squares at `coords` in their order, in arrays uint8 [k, size_px, size_px, 3] of any length k.

    Parameters: `slide` is the open slide and `path` its file, which other processes open for themselves. `coords`
    int64 [n, 2] are level-0 corners, ordered by y, then x (as a grid is). `stains` and `options` say how the tiles are
    normalised (see `normalise.normaliser`). Without processes in `readers` the tiles are read here, as they are
    asked for. They are the same either way.

    Raises SlideError when the slide is damaged where a tile lies, and RuntimeError when processes that read it died
    twice: more often they were killed, or out of memory, than it is the slide's fault. So the job fails, and can be
    run again.
    """
    if readers.processes == 0:
        yield from _in_order(slide, coords, size_px, mpp, normaliser(stains, options))
        return
    calls = [(str(path), slide.mpp, band, size_px, mpp, stains, options) for band in _cut(coords)]
    try:
        for tiles in readers.map(_read_band, calls):
            yield tiles.numpy()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{path}: the processes that read it died twice (out of memory?); give the job more memory or fewer "
            "threads. If it is always this slide, take it out of the manifest"
        ) from error


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


# What a reading process has open: the slide and its normalisation, by what they were made of.
_kept: dict[tuple, tuple[Slide, Callable]] = {}


def _read_band(
    path: str, slide_mpp: float, coords: np.ndarray, size_px: int, mpp: float, stains: Stains | None, options: dict
) -> torch.Tensor:
    """A band's tiles as a tensor, which comes to the other process through shared memory."""
    key = path, slide_mpp, None if stains is None else stains.matrix.tobytes() + stains.p99.tobytes()
    if key not in _kept:
        for slide, _ in _kept.values():
            slide.close()
        _kept.clear()
        _kept[key] = open_slide(path, slide_mpp), normaliser(stains, options)
    slide, normalise = _kept[key]
    return torch.from_numpy(np.concatenate(list(_in_order(slide, coords, size_px, mpp, normalise))))


def _cut(coords: np.ndarray) -> list[np.ndarray]:
    """Coordinates in pieces of whole rows with at least BAND_TILES tiles each, but for the last."""
    edges = [*(np.flatnonzero(np.diff(coords[:, 1])) + 1).tolist(), len(coords)]
    cuts = [0]
    for edge in edges:
        if edge - cuts[-1] >= BAND_TILES or edge == len(coords):
            cuts.append(edge)
    return [coords[first:last] for first, last in pairwise(cuts)]

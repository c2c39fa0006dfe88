"""What every open slide can do, whatever the file: squares, tiles and bands at a stated resolution.

A file is seen as levels, and a level as a regular grid of pieces (compressed tiles, strips, or bands of rows), each of
which is decoded once per call, in the order in which it is stored. What a caller wants is filled from the pieces
as they come, so that memory holds only what is still incomplete.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

# A level this close to the wanted resolution is used as it is, and a reduction this close to a whole factor is one:
# 0.499 for 0.5 µm/px needs no resampling, and for 1.0 µm/px every 2×2 pixels make one.
SAME_RESOLUTION = 0.01
# Tiles of a batch of `tiles`.
BATCH = 64
# Incomplete tiles are kept up to this; beyond it the slide is gone through once for each half of the tiles.
IN_FLIGHT_BYTES = 400 * 2**20
# Rows that `bands` reduces at once, and what their pixels at the level may take.
BAND_UNIT = 16
BAND_BYTES = 256 * 2**20

# Parallel work is done by processes, each on its own core.
cv2.setNumThreads(1)


class SlideError(ValueError):
    """This slide cannot be used and is set aside. The message is the reason that the report shows."""


@dataclass(frozen=True)
class Level:
    """A level of the pyramid: its size and that of its pieces in pixels, and level-0 pixels per pixel."""

    width: int
    height: int
    downsample: float
    piece_width: int
    piece_height: int

    @property
    def columns(self) -> int:
        return -(-self.width // self.piece_width)

    @property
    def rows(self) -> int:
        return -(-self.height // self.piece_height)


class Slide:
    """An open slide. Coordinates (x, y) are pixels of level 0, sizes are pixels at the wanted resolution.

    Attributes: `width` and `height` of level 0 in pixels, `mpp` of level 0 in µm per pixel, `levels` the levels'
    downsamples, `format` the kind of file. What lies outside the scan is white. A level within 1 % of the wanted
    resolution is taken as it is; else the coarsest level that is finer is reduced by averaging over areas, by a whole
    factor if one lies within 1 %. Places are rounded to whole pixels of the level.
    """

    def __init__(self, levels: list[Level], mpp: float, format: str):
        self._levels = levels
        self.width, self.height = levels[0].width, levels[0].height
        self.levels = tuple(level.downsample for level in levels)
        self.mpp = mpp
        self.format = format

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a slide is opened again by its path, which is cheap."""
        raise NotImplementedError

    def _pieces(self, level: int, wanted: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Decode pieces of a level: (index, uint8 RGB [height, width, 3]) for every index of `wanted` (ascending).

        Pieces are numbered row by row; those at the rim may be larger than what lies on the level. None is a piece
        that was not scanned. The array may be overwritten by the next piece.
        """
        raise NotImplementedError

    def footprint(self, size_px: int, mpp: float) -> int:
        """Side in level-0 pixels of the square that `read(x, y, size_px, mpp)` looks at."""
        level, scale = self._level_for(mpp)
        return round(max(1, round(size_px * scale)) * self.levels[level])

    def read(self, x: int, y: int, size_px: int, mpp: float) -> np.ndarray:
        """A square as uint8 RGB [size_px, size_px, 3].

        Every piece under it is decoded for it alone; `tiles` is the way to many squares. Raises SlideError when the
        file is damaged at this place.
        """
        return next(self.tiles(np.array([[x, y]]), size_px, mpp))[1][0]

    def tiles(
        self, coords: np.ndarray, size_px: int, mpp: float, batch: int = BATCH
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Squares in the order in which the file stores them, up to `batch` at a time.

        `coords` int [n, 2] are the (x, y) of the corners. Yields (int64 [k], uint8 RGB [k, size_px, size_px, 3]): which
        rows of `coords`, and their pixels. Each piece of the file is decoded once, unless so many squares overlap
        that they have to be done in parts. Raises SlideError when the file is damaged at one of the places.
        """
        level, scale = self._level_for(mpp)
        side = max(1, round(size_px * scale))
        corners = np.rint(np.asarray(coords) / self.levels[level]).astype(np.int64).reshape(-1, 2)
        plan = _Plan(self._levels[level], corners, side)
        everything = np.arange(len(corners))
        for part in plan.parts(everything, max(side, size_px) ** 2 * 3):
            yield from self._fill(level, plan, part, size_px, batch)

    def bands(self, mpp: float, rows: int) -> Iterator[np.ndarray]:
        """The whole slide at `mpp` from top to bottom: uint8 RGB [≤ rows, ceil(width · self.mpp / mpp), 3] each.

        Put together they are `thumbnail(mpp)`, whatever `rows` is.
        """
        waiting: list[np.ndarray] = []
        for unit in self._units(mpp):
            waiting.append(unit)
            while sum(map(len, waiting)) >= rows:
                joined = np.concatenate(waiting)
                yield joined[:rows]
                waiting = [joined[rows:]]
        if sum(map(len, waiting)):
            yield np.concatenate(waiting)

    def thumbnail(self, mpp: float) -> np.ndarray:
        """The whole slide as uint8 RGB [height, width, 3] at `mpp`."""
        return np.concatenate(list(self._units(mpp)))

    def _level_for(self, mpp: float) -> tuple[int, float]:
        """The coarsest level no coarser than `mpp`, and how many of its pixels make one wanted pixel."""
        wanted = mpp / self.mpp
        level = max((i for i, d in enumerate(self.levels) if d <= wanted * (1 + SAME_RESOLUTION)), default=0)
        scale = wanted / self.levels[level]
        whole = max(1, round(scale))
        return level, float(whole) if abs(scale / whole - 1) <= SAME_RESOLUTION else scale

    def _fill(
        self, level: int, plan: _Plan, part: np.ndarray, size_px: int, batch: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`tiles` for the squares of `part`, which is in the order in which they are completed."""
        side, grid = plan.side, self._levels[level]
        slot = np.empty(len(plan.corners), np.int64)
        slot[part] = np.arange(len(part))
        batches: dict[int, np.ndarray] = {}
        squares: dict[int, np.ndarray] = {}
        spare: list[np.ndarray] = []

        def place(square: int) -> np.ndarray:
            """Where a finished square goes."""
            number, row = divmod(int(slot[square]), batch)
            if number not in batches:
                batches[number] = np.empty((min(batch, len(part) - number * batch), size_px, size_px, 3), np.uint8)
            return batches[number][row]

        def start(square: int) -> np.ndarray:
            """The pixels of a square at the level, white where no piece will come."""
            pixels = place(square) if side == size_px else spare.pop() if spare else np.empty((side, side, 3), np.uint8)
            if not plan.inside[square]:
                pixels[:] = 255
            return pixels

        def finish(square: int) -> None:
            pixels = squares.pop(square)
            if side != size_px:
                # Reduced by area; a slide coarser than what is wanted is enlarged smoothly.
                method = cv2.INTER_AREA if side > size_px else cv2.INTER_CUBIC
                cv2.resize(pixels, (size_px, size_px), dst=place(square), interpolation=method)
                spare.append(pixels)

        n_done = n_given = 0

        def ready() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            nonlocal n_given
            while n_given < n_done and (n_done - n_given >= batch or n_done == len(part)):
                yield part[n_given : n_given + batch], batches.pop(n_given // batch)
                n_given += batch

        for square in part[plan.last[part] < 0].tolist():  # wholly outside the scan
            squares[square] = start(square)
            finish(square)
            n_done += 1
        yield from ready()
        index, square_of = plan.pairs(part)
        pieces, first = np.unique(index, return_index=True)
        bounds = pairwise([*first.tolist(), len(index)])
        for (piece, pixels), (begin, end) in zip(self._pieces(level, pieces.tolist()), bounds, strict=True):
            row, column = divmod(piece, grid.columns)
            top, left = row * grid.piece_height, column * grid.piece_width
            bottom, right = min(top + grid.piece_height, grid.height), min(left + grid.piece_width, grid.width)
            for square in square_of[begin:end].tolist():
                if square not in squares:
                    squares[square] = start(square)
                x, y = plan.x[square], plan.y[square]
                x0, x1 = max(x, left), min(x + side, right)
                y0, y1 = max(y, top), min(y + side, bottom)
                target = squares[square][y0 - y : y1 - y, x0 - x : x1 - x]
                target[:] = 255 if pixels is None else pixels[y0 - top : y1 - top, x0 - left : x1 - left]
                if plan.last[square] == piece:
                    finish(square)
                    n_done += 1
            yield from ready()

    def _units(self, mpp: float) -> Iterator[np.ndarray]:
        """`bands` in steps of fixed height, so that pixels do not depend on how many rows a caller takes at once."""
        level, _ = self._level_for(mpp)
        # A hundredth is nothing in a tile, but adds up over a slide: here the scale is always the true one.
        scale = mpp / self.mpp / self.levels[level]
        width, height = (math.ceil(side * self.mpp / mpp) for side in (self.width, self.height))
        # What the result covers at the level, white beyond its rim.
        span = max(1, round(width * scale))
        unit = BAND_UNIT
        while unit > 1 and unit * scale * span * 3 > BAND_BYTES:
            unit //= 2
        tops = [*range(0, height, unit), height]
        edges = [round(top * scale) for top in tops]
        rows = self._rows(level, span)
        held = np.empty((0, span, 3), np.uint8)
        start = 0  # row of the level at which `held` begins
        for (top, bottom), (begin, end) in zip(pairwise(tops), pairwise(edges)):
            end = max(end, begin + 1)
            chunks = [held[begin - start :]]
            have = start + len(held)
            while have < end:
                chunk = next(rows, None)
                if chunk is None:
                    chunk = np.full((end - have, span, 3), 255, np.uint8)
                chunks.append(chunk)
                have += len(chunk)
            held = np.concatenate(chunks) if len(chunks) > 1 else chunks[0]
            start = begin
            source = held[: end - begin]
            if source.shape[:2] == (bottom - top, width):
                yield source.copy()
            else:
                method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
                yield cv2.resize(source, (width, bottom - top), interpolation=method)

    def _rows(self, level: int, span: int) -> Iterator[np.ndarray]:
        """All rows of a level, a row of pieces at a time: uint8 [rows, span, 3], white right of the level."""
        grid = self._levels[level]
        right = min(grid.width, span)
        canvas = None
        for piece, pixels in self._pieces(level, list(range(grid.rows * grid.columns))):
            row, column = divmod(piece, grid.columns)
            if column == 0:
                height = min(grid.piece_height, grid.height - row * grid.piece_height)
                canvas = np.empty((height, span, 3), np.uint8)
                canvas[:, right:] = 255
            left = column * grid.piece_width
            target = canvas[:, left : min(left + grid.piece_width, right)]
            target[:] = 255 if pixels is None else pixels[: target.shape[0], : target.shape[1]]
            if column == grid.columns - 1:
                yield canvas


class _Plan:
    """Which pieces of a level every square touches."""

    def __init__(self, grid: Level, corners: np.ndarray, side: int):
        self.corners, self.side, self.columns = corners, side, grid.columns
        size, piece = np.array([grid.width, grid.height]), np.array([grid.piece_width, grid.piece_height])
        low, high = np.clip(corners, 0, size), np.clip(corners + side, 0, size)
        empty = (low >= high).any(axis=1)
        self.begin, self.end = low // piece, -(-high // piece)
        self.end[empty] = self.begin[empty]
        self.inside = ((corners >= 0) & (corners + side <= size)).all(axis=1)
        self.first = np.where(empty, -1, self.begin[:, 1] * grid.columns + self.begin[:, 0])
        self.last = np.where(empty, -1, (self.end[:, 1] - 1) * grid.columns + self.end[:, 0] - 1)
        self.x, self.y = corners.T.tolist() if len(corners) else ([], [])

    def pairs(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(piece, square) int64 [m] each, for all pieces that the squares of `part` touch, by piece."""
        span = self.end[part] - self.begin[part]
        count = span.prod(axis=1)
        square = np.repeat(part, count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        row, column = np.divmod(within, np.maximum(np.repeat(span[:, 0], count), 1))
        piece = (self.begin[square, 1] + row) * self.columns + self.begin[square, 0] + column
        order = np.argsort(piece, kind="stable")
        return piece[order], square[order]

    def parts(self, squares: np.ndarray, square_bytes: int) -> Iterator[np.ndarray]:
        """Split squares so that the incomplete ones of a part fit in memory; each part by time of completion."""
        events = np.concatenate([self.first[squares], self.last[squares] + 1])
        change = np.repeat([1, -1], len(squares))
        # At the same piece, squares begin before others end: the larger of the two counts.
        most = np.cumsum(change[np.lexsort((-change, events))]).max(initial=0)
        if most * square_bytes > IN_FLIGHT_BYTES and len(squares) > 1:
            # By columns, because a slide is stored row by row: each half then has half a row of squares open.
            order = squares[np.argsort(self.corners[squares, 0], kind="stable")]
            for half in np.array_split(order, 2):
                yield from self.parts(half, square_bytes)
        elif len(squares):
            yield squares[np.lexsort((squares, self.last[squares]))]

"""A slide of realistic size and weight, made in seconds: compressed tiles from a bank, laid out at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from histofuse.sources.simulated.slides import look_of, render

TILE_PX = 256
MPP = 0.25
TISSUE = 0.4
QUALITY = 80
BANK = 64  # tiles of tissue, and a quarter as many of glass
REDUCTIONS = (4, 16)


@dataclass(frozen=True)
class LargeSlide:
    """`tissue` bool [rows, columns] says which compressed tiles, of TILE_PX pixels, show tissue."""

    path: Path
    tissue: np.ndarray

    def coords(self, side: int) -> np.ndarray:
        """int64 [n, 2]: corners of the tiles of a gapless grid (`side` pixels) that lie wholly in the tissue."""
        rows, columns = (n * TILE_PX // side for n in self.tissue.shape)
        corners = [
            (x, y)
            for y in range(0, rows * side, side)
            for x in range(0, columns * side, side)
            if self.tissue[y // TILE_PX : -(-(y + side) // TILE_PX), x // TILE_PX : -(-(x + side) // TILE_PX)].all()
        ]
        return np.array(corners, np.int64)


def write_large_slide(path: Path, rows: int = 80, columns: int = 80, seed: int = 0) -> LargeSlide:
    """An SVS of `rows` × `columns` tiles with a pyramid; 40 % of the tiles are tissue, in a few large pieces."""
    rng = np.random.default_rng(seed)
    tissue, glass = _bank(rng)
    field = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), min(rows, columns) / 10, mode="constant")
    shown = field > np.quantile(field, 1 - TISSUE)
    bank = np.concatenate([tissue, glass])
    choice = np.where(
        shown, rng.integers(len(tissue), size=shown.shape), len(tissue) + rng.integers(len(glass), size=shown.shape)
    )
    text = f"Aperio Image Library v11.2.1\r\n{columns * TILE_PX}x{rows * TILE_PX} (256x256) JPEG/RGB Q={QUALITY}"
    encoded = [_split(_encode(tile)) for tile in bank]
    with tifffile.TiffWriter(path) as file:
        _write(file, (encoded[k] for k in choice.ravel()), encoded[0], choice.shape, f"{text}|AppMag = 40|MPP = {MPP}")
        for reduction in REDUCTIONS:
            small = np.stack([_reduced(tile, reduction) for tile in bank])
            layout = np.pad(choice, [(0, -n % reduction) for n in choice.shape], constant_values=len(tissue))
            blocks = layout.reshape(layout.shape[0] // reduction, reduction, -1, reduction).swapaxes(1, 2)
            tiles = (_split(_encode(_joined(small[block]))) for line in blocks for block in line)
            _write(file, tiles, encoded[0], blocks.shape[:2], f"{text} -> reduced by {reduction}")
    return LargeSlide(path, shown)


def _bank(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, TILE_PX, TILE_PX, 3] each: tissue and glass."""
    case = SimpleNamespace(seen={"slides": {"tumour": 0.5, "microenvironment": 0.0}}, codel=False)
    image = render(look_of(case), 4096, rng)
    rows, columns = (n // TILE_PX for n in image.shape[:2])
    tiles = image[: rows * TILE_PX, : columns * TILE_PX].reshape(rows, TILE_PX, columns, TILE_PX, 3)
    tiles = tiles.swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX, 3)
    stained = (np.ptp(tiles, axis=3) > 15).mean(axis=(1, 2))
    by_colour = tiles[np.argsort(-stained, kind="stable")]
    return by_colour[:BANK], by_colour[-BANK // 4 :]


def _encode(tile: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), QUALITY, subsampling="422")


def _split(jpeg: bytes) -> tuple[bytes, bytes]:
    """(tables, image) as scanners store them: the tables, equal for all tiles, once beside the tiles."""
    tables, image, at = b"", b"", 2
    while jpeg[at + 1] != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] in (0xDB, 0xC4):  # quantisation and Huffman tables
            tables += jpeg[at:end]
        elif not 0xE0 <= jpeg[at + 1] <= 0xEF:
            image += jpeg[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + image + jpeg[at:]


def _reduced(tile: np.ndarray, reduction: int) -> np.ndarray:
    return np.asarray(Image.fromarray(tile).reduce(reduction))


def _joined(tiles: np.ndarray) -> np.ndarray:
    """[n, n, h, w, 3] to one tile [n·h, n·w, 3]."""
    n, _, height, width, _ = tiles.shape
    return tiles.swapaxes(1, 2).reshape(n * height, n * width, 3)


def _write(file: tifffile.TiffWriter, tiles, first: tuple[bytes, bytes], shape: tuple[int, int], text: str) -> None:
    file.write(
        (image for _, image in tiles),
        shape=(shape[0] * TILE_PX, shape[1] * TILE_PX, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="ycbcr",
        subsampling=(2, 1),
        compression="jpeg",
        jpegtables=first[0],
        description=text,
        metadata=None,
    )

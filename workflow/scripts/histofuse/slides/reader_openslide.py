"""Slides through OpenSlide: the formats of scanners that are no ordinary TIFF (NDPI, MRXS, SCN, BIF, DICOM, …)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from histofuse.slides.machine import of_the_machine
from histofuse.slides.reader_resolution import Stated, number, resolution
from histofuse.slides.reader_slide import Level, Slide, SlideError

# Blocks are whole tiles of the file, at least and at most this large where that is possible.
BLOCK_PX = (512, 2048)
USUAL_BLOCK_PX = 1024


class OpenSlideSlide(Slide):
    """Reads blocks made of whole tiles of the file, so that each of them is decoded about once."""

    def __init__(self, path: Path, mpp: float | None):
        try:
            self._handle = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            if of_the_machine(error):
                raise
            raise SlideError(f"cannot be opened: damaged, cut short, or not a slide ({error})") from error
        try:
            properties = self._handle.properties
            levels = [
                Level(*size, downsample, *(_block(properties, i, side) for side in ("width", "height")))
                for i, (size, downsample) in enumerate(
                    zip(self._handle.level_dimensions, self._handle.level_downsamples, strict=True)
                )
            ]
            super().__init__(levels, _resolution(properties, mpp), properties[openslide.PROPERTY_NAME_VENDOR])
        except SlideError:
            self._handle.close()
            raise

    def close(self) -> None:
        self._handle.close()

    def _pieces(self, level: int, wanted: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        grid = self._levels[level]
        for index in wanted:
            row, column = divmod(index, grid.columns)
            left, top = column * grid.piece_width, row * grid.piece_height
            size = min(grid.piece_width, grid.width - left), min(grid.piece_height, grid.height - top)
            x, y = round(left * grid.downsample), round(top * grid.downsample)
            try:
                region = self._handle.read_region((x, y), level, size)
            except openslide.OpenSlideError as error:
                if of_the_machine(error):
                    raise
                raise SlideError(f"damaged: cannot be read at x={x}, y={y} ({error})") from error
            yield index, _on_white(region)


def _block(properties, level: int, side: str) -> int:
    tile = int(number(properties.get(f"openslide.level[{level}].tile-{side}")))
    low, high = BLOCK_PX
    if not 0 < tile <= high:
        return USUAL_BLOCK_PX
    block = -(-low // tile) * tile
    return block if block <= high else tile


def _resolution(properties, override: float | None) -> float:
    # For plain TIFF, OpenSlide takes the tags, which often hold a printer's 72 dots per inch.
    firm = properties.get(openslide.PROPERTY_NAME_VENDOR) != "generic-tiff"
    keys = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
    x, y = (number(properties.get(key)) for key in keys)
    return resolution(
        override,
        [Stated(keys[0], x, y, firm), Stated("aperio.MPP", number(properties.get("aperio.MPP")), 0)],
        number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
    )


def _on_white(region: Image.Image) -> np.ndarray:
    """RGBA to RGB. OpenSlide makes unscanned parts transparent black, which would look like dense tissue."""
    if region.getextrema()[3][0] < 255:
        white = Image.new("RGBA", region.size, (255, 255, 255, 255))
        region = Image.alpha_composite(white, region)
    return np.asarray(region.convert("RGB"))

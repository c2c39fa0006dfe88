"""Whole-slide images through OpenSlide, read at a stated resolution in µm per pixel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from histofuse.io import InputError

# A level this close to the wanted resolution is used as it is: 0.499 for 0.5 µm/px needs no resampling.
SAME_RESOLUTION = 0.01
# The objective's nominal power times its pixel size: 40x scanners give 0.25 µm/px, 20x ones 0.5.
UM_PER_PX_AT_1X = 10.0
PLAUSIBLE_MPP = (0.05, 10.0)
# Side of the blocks (in thumbnail pixels) in which a slide without small levels is read.
BLOCK_PX = 256


class SlideError(ValueError):
    """This slide cannot be used and is set aside. The message is the reason that the report shows."""


class Slide:
    """An open slide. Coordinates (x, y) are pixels of level 0, sizes are pixels at the wanted resolution.

    Attributes: `width` and `height` of level 0 in pixels, `mpp` of level 0 in µm per pixel.
    """

    def __init__(self, handle: openslide.OpenSlide, mpp: float):
        self._handle = handle
        self.width, self.height = handle.dimensions
        self.mpp = mpp

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_) -> None:
        self._handle.close()

    def footprint(self, size_px: int, mpp: float) -> int:
        """Side in level-0 pixels of the square that `read(x, y, size_px, mpp)` looks at."""
        level, scale = self._level_for(mpp)
        return round(round(size_px * scale) * self._handle.level_downsamples[level])

    def read(self, x: int, y: int, size_px: int, mpp: float) -> np.ndarray:
        """A square as uint8 RGB [size_px, size_px, 3]; what lies outside the scan is white.

        Raises SlideError when the file is damaged at this place.
        """
        return self._region(x, y, size_px, size_px, mpp)

    def thumbnail(self, mpp: float) -> np.ndarray:
        """The whole slide as uint8 RGB [height, width, 3] at `mpp` (coarser than level 0).

        It is read block by block, so that a slide whose only level is the full one needs little memory.
        """
        pixel = mpp / self.mpp
        width, height = math.ceil(self.width / pixel), math.ceil(self.height / pixel)
        image = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, BLOCK_PX):
            for left in range(0, width, BLOCK_PX):
                block = image[top : top + BLOCK_PX, left : left + BLOCK_PX]
                x, y = round(left * pixel), round(top * pixel)
                block[:] = self._region(x, y, block.shape[1], block.shape[0], mpp)
        return image

    def _level_for(self, mpp: float) -> tuple[int, float]:
        """The coarsest level no coarser than `mpp`, and how many of its pixels make one wanted pixel."""
        downsamples = self._handle.level_downsamples
        wanted = mpp / self.mpp
        level = max((i for i, d in enumerate(downsamples) if d <= wanted * (1 + SAME_RESOLUTION)), default=0)
        scale = wanted / downsamples[level]
        return level, 1.0 if abs(scale - 1) <= SAME_RESOLUTION else scale

    def _region(self, x: int, y: int, width: int, height: int, mpp: float) -> np.ndarray:
        level, scale = self._level_for(mpp)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        try:
            region = self._handle.read_region((int(x), int(y)), level, size)
        except openslide.OpenSlideError as error:
            raise SlideError(f"damaged: cannot be read at x={x}, y={y} ({error})") from error
        image = _on_white(region)
        if image.size != (width, height):
            # Pillow widens the filter with the reduction, so this is antialiased.
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.array(image)


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a slide; use it in a `with` block.

    `mpp` overrides what the file says about its resolution. Else `openslide.mpp-x` counts, then `aperio.MPP`,
    then the objective's power (40x is 0.25 µm/px, 20x is 0.5). Raises SlideError when the file is no readable
    slide or states no resolution, and InputError when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such slide file; fetch it again")
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise SlideError(f"cannot be opened: damaged, cut short, or not a slide ({error})") from error
    try:
        return Slide(handle, _resolution(handle.properties) if mpp is None else _plausible(mpp, "the override"))
    except SlideError:
        handle.close()
        raise


def _resolution(properties) -> float:
    for key in (openslide.PROPERTY_NAME_MPP_X, "aperio.MPP"):
        if value := _number(properties.get(key)):
            return _plausible(value, key)
    if power := _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)):
        return _plausible(UM_PER_PX_AT_1X / power, "the objective's power")
    raise SlideError("no magnification: the file states neither its resolution nor its objective; use mpp_overrides")


def _number(text: str | None) -> float:
    """A property as a number; 0 when it is absent, no number, or 0 (some exports write MPP = 0)."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _plausible(mpp: float, source: str) -> float:
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise SlideError(f"no magnification: {source} says {mpp:g} micrometres per pixel, outside {low:g} to {high:g}")
    return float(mpp)


def _on_white(region: Image.Image) -> Image.Image:
    """RGBA to RGB. OpenSlide makes unscanned parts transparent black, which would look like dense tissue."""
    if region.getextrema()[3][0] == 255:
        return region.convert("RGB")
    white = Image.new("RGBA", region.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, region).convert("RGB")

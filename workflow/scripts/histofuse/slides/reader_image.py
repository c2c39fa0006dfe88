"""Plain JPEG and PNG of any size, streamed from top to bottom by libvips: no pyramid, and never wholly in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyvips

from histofuse.slides.machine import of_the_machine
from histofuse.slides.reader_resolution import resolution
from histofuse.slides.reader_slide import Level, Slide, SlideError

SIGNATURES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
# A piece is a band of so many rows: libvips hands over few rows faster than many.
BAND_ROWS = 32

# libvips also raises what it warns of.
logging.getLogger("pyvips").setLevel(logging.CRITICAL)
# A progressive JPEG is decoded only after all its coefficients (2 bytes each) are read, an interlaced PNG as a whole.
WHOLE_IMAGE_BYTES = 1200 * 2**20


def image_format(head: bytes) -> str | None:
    """ "jpeg" or "png" by the first bytes of a file, None for anything else."""
    return next((name for signature, name in SIGNATURES.items() if head.startswith(signature)), None)


class ImageSlide(Slide):
    """One level. Every pass over `tiles` or `bands` streams the file once; `read` streams it down to its place."""

    def __init__(self, path: Path, mpp: float | None, format: str):
        self._path = path
        try:
            image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="error")
        except pyvips.Error as error:
            if of_the_machine(error):
                raise
            raise SlideError(f"cannot be opened: damaged, or not an image ({_first_line(error)})") from error
        whole = image.width * image.height * image.bands * 2
        if image.get_typeof("interlaced") and image.get("interlaced") and whole > WHOLE_IMAGE_BYTES:
            kind = "progressive JPEG" if format == "jpeg" else "interlaced PNG"
            raise SlideError(
                f"too large: a {kind} of {image.width} × {image.height} pixels would have to be in memory at once; "
                "write it again as an ordinary one"
            )
        level = Level(image.width, image.height, 1.0, image.width, BAND_ROWS)
        # The dots per inch of such files are a printer's, or a camera's guess.
        super().__init__([level], resolution(mpp, [], 0.0), format)

    def close(self) -> None:
        """Nothing is held open between passes."""

    def _pieces(self, level: int, wanted: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        grid = self._levels[level]
        top = 0
        try:
            # Streams cannot go back: every pass opens its own.
            image = pyvips.Image.new_from_file(str(self._path), access="sequential", fail_on="error")
            region = pyvips.Region.new(_rgb(image))
            for index in wanted:
                top = index * grid.piece_height
                height = min(grid.piece_height, grid.height - top)
                pixels = region.fetch(0, top, grid.width, height)
                yield index, np.frombuffer(pixels, np.uint8).reshape(height, grid.width, 3)
        except pyvips.Error as error:
            if of_the_machine(error):
                raise
            raise SlideError(f"damaged: cannot be read at x=0, y={top} ({_first_line(error)})") from error


def _rgb(image: pyvips.Image) -> pyvips.Image:
    """Grey, CMYK, 16 bits and transparency to 8-bit RGB on white."""
    if image.format == "uchar" and image.interpretation == "srgb" and image.bands == 3:
        return image
    image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    return image.cast("uchar")


def _first_line(error: pyvips.Error) -> str:
    return str(error.detail or error.message).strip().splitlines()[0]

"""Whole-slide images, read at a stated resolution in µm per pixel, whatever the kind of file.

Ordinary TIFF (Aperio's SVS, BigTIFF, pyramids, strips) is decoded by tifffile and imagecodecs, three times as fast as
OpenSlide and with the same pixels; what only OpenSlide knows goes through it; plain JPEG and PNG are streamed.
"""

from __future__ import annotations

from pathlib import Path

import openslide

from histofuse.io import InputError
from histofuse.slides.reader_image import ImageSlide, image_format
from histofuse.slides.reader_openslide import OpenSlideSlide
from histofuse.slides.reader_resolution import UM_PER_PX_AT_1X
from histofuse.slides.reader_slide import Slide, SlideError
from histofuse.slides.reader_tiff import TiffSlide, Unsupported, is_tiff

__all__ = ["UM_PER_PX_AT_1X", "Slide", "SlideError", "open_slide"]

# What OpenSlide calls the kinds of TIFF that need no knowledge of the scanner; None is what it refuses.
ORDINARY_TIFF = ("aperio", "generic-tiff", None)


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a slide; use it in a `with` block.

    `mpp` overrides what the file says about its resolution. Else what its metadata state counts, then the
    resolution tags of a TIFF where they are plausible, then the objective's power (40x is 0.25 µm/px, 20x is 0.5).
    Raises SlideError when the file is no readable slide or states no resolution, and InputError when there is no
    such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such slide file; fetch it again")
    with path.open("rb") as file:
        head = file.read(16)
    vendor = openslide.OpenSlide.detect_format(path)
    reason = "neither a TIFF, nor a JPEG or PNG, nor anything that OpenSlide knows"
    if is_tiff(head) and vendor in ORDINARY_TIFF:
        try:
            return TiffSlide(path, mpp, vendor)
        except Unsupported as error:
            reason = str(error)
    if vendor is not None:
        return OpenSlideSlide(path, mpp)
    # Some scanners' slides begin like a JPEG, so this comes last.
    if format := image_format(head):
        return ImageSlide(path, mpp, format)
    raise SlideError(f"cannot be opened: damaged, cut short, or not a slide ({reason})")

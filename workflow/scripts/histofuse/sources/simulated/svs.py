"""Aperio's SVS: a TIFF of JPEG tiles with a thumbnail and smaller levels, described in ImageDescription."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE = 256
LEVEL_FACTOR = 4  # Aperio's step from one level to the next
JPEG_QUALITY = 75
LIBRARY = "Aperio Image Library v12.0.15"


def write_svs(image: np.ndarray, path: Path, *, name: str, mpp: float | None, magnification: int | None) -> None:
    """Write uint8 RGB [height, width, 3] as a pyramid; without `mpp` and `magnification` no resolution is stated.

    The same image gives the same bytes. Pages in Aperio's order: full resolution, thumbnail, smaller levels.
    """
    height, width = image.shape[:2]
    title = f"{LIBRARY} \r\n{width}x{height} [0,0 {width}x{height}] ({TILE}x{TILE})"
    fields = {
        "AppMag": magnification,
        "StripeWidth": 2040,
        "ScanScope ID": "SIMULATED",
        "Filename": name,
        "Date": "01/01/24",
        "Time": "09:00:00",
        "MPP": None if mpp is None else f"{mpp:.4f}",
        "OriginalWidth": width,
        "OriginalHeight": height,
    }
    suffix = "".join(f"|{key} = {value}" for key, value in fields.items() if value is not None)
    jpeg = {
        "photometric": "rgb",  # becomes YCbCr in the file, as subsampling asks
        "subsampling": (2, 2),
        "compression": "jpeg",
        "compressionargs": {"level": JPEG_QUALITY},
        "metadata": None,
        "software": False,
        "maxworkers": 1,
    }
    full = Image.fromarray(image)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(TILE, TILE), description=f"{title} JPEG/RGB Q={JPEG_QUALITY}{suffix}", **jpeg)
        scale = 512 / max(width, height)
        small = np.asarray(full.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX))
        thumbnail = f"{LIBRARY} \r\n{width}x{height} -> {small.shape[1]}x{small.shape[0]} - {suffix}"
        tiff.write(small, rowsperstrip=16, description=thumbnail, **jpeg)
        factor = LEVEL_FACTOR
        while max(width, height) // factor >= TILE:
            level = np.asarray(full.reduce(factor))
            note = f"{title} -> {level.shape[1]}x{level.shape[0]} JPEG/RGB Q={JPEG_QUALITY}{suffix}"
            tiff.write(level, tile=(TILE, TILE), description=note, **jpeg)
            factor *= LEVEL_FACTOR

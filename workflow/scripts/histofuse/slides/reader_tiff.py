"""Ordinary TIFF through tifffile and imagecodecs: Aperio's SVS, BigTIFF, pyramids, tiles and strips.

Pixels are those of OpenSlide at a third of its time: most of what OpenSlide does beside decoding is not needed here.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pyvips
import tifffile

from histofuse.slides.machine import of_the_machine
from histofuse.slides.reader_resolution import UM_PER_RESOLUTION_UNIT, Stated, number, resolution
from histofuse.slides.reader_slide import Level, Slide, SlideError

BIT_DEPTHS = (8, 16)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6
JPEG = 7
# None, LZW, deflate (two numbers), PackBits, LZMA, Zstandard, WebP.
OTHER_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000, 50001)
# OpenSlide knows how Aperio colours its JPEG 2000; others it refuses.
JPEG_2000 = (33005, 34712)
REDUCED_IMAGE, MACRO = 1, 8
PREMULTIPLIED, STRAIGHT = 1, 2  # ExtraSamples; 0 is a channel without a stated meaning, which is ignored
# The largest piece that is decoded at once, and the rows that are read at once where no codec says otherwise.
PIECE_BYTES = 256 * 2**20
ROWS = 256
MAX_PAGES = 1000
# JPEG data end with this, but for padding. A decoder goes past holes (zeros that no download filled) with wrong
# pixels, so pieces with such a run of zeros, which blank ones can have too, are shown to a stricter one.
JPEG_END, HOLE = b"\xff\xd9", bytes(64)

# What makes a slide useless is raised, too.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class Unsupported(Exception):
    """This TIFF is not ordinary; perhaps OpenSlide knows it. The message says why."""


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class TiffSlide(Slide):
    """Decodes every compressed tile or strip by itself."""

    def __init__(self, path: Path, mpp: float | None, vendor: str | None):
        """`vendor` is OpenSlide's name for the file. Raises Unsupported, or SlideError when nobody could use it."""
        try:
            with tifffile.TiffFile(path) as file:
                base, pages = _pyramid(list(islice(file.pages, MAX_PAGES)), vendor)
                self._pages = [_Page(page) for page in pages]
                stated, power = _stated(base)
        except (SlideError, Unsupported):
            raise
        except Exception as error:  # whatever tifffile meets in a damaged directory
            if of_the_machine(error):
                raise
            raise Unsupported(f"{type(error).__name__}: {error}") from error
        levels = [
            Level(p.width, p.height, (self._pages[0].width / p.width + self._pages[0].height / p.height) / 2, *p.piece)
            for p in self._pages
        ]
        super().__init__(levels, resolution(mpp, stated, power), vendor or "tiff")
        self._file = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self._file)

    def _pieces(self, level: int, wanted: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        page, grid = self._pages[level], self._levels[level]
        for index in wanted:
            try:
                yield index, page.decode(self._file, index)
            except Exception as error:  # codecs have each their own
                if of_the_machine(error):
                    raise
                row, column = divmod(index, grid.columns)
                x, y = (round(n * grid.downsample) for n in (column * grid.piece_width, row * grid.piece_height))
                raise SlideError(f"damaged: cannot be read at x={x}, y={y} ({' '.join(str(error).split())})") from error


class _Page:
    """What is needed to decode the pieces of a page after its directory was read."""

    def __init__(self, page: tifffile.TiffPage):
        self.height, self.width = page.imagelength, page.imagewidth
        self.samples, self.photometric = page.samplesperpixel, page.photometric
        self._decode, self._tables, self.dtype = page.decode, page.jpegtables, page.dtype
        self._planes = self.samples if page.planarconfig == 2 and self.samples > 1 else 1
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        extra = page.extrasamples
        self._alpha = extra[-1] if self.samples in (2, 4) and extra and extra[-1] in (PREMULTIPLIED, STRAIGHT) else 0
        self._jpeg = page.compression == JPEG and page.bitspersample == 8 and self._planes == 1
        if self._jpeg:
            self._spaces = tifffile.tifffile.jpeg_decode_colorspace(
                self.photometric, page.planarconfig, extra, page.is_jfif
            )
        rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, self.height)
        self.piece = (page.tilewidth if page.is_tiled else self.width), rows
        self._tiled = page.is_tiled
        self._row_bytes = self.width * self.samples * self.dtype.itemsize
        self._raw = self._is_raw(page)
        if self._raw:
            # No codec asks for whole strips, so a scan in one strip is read by rows.
            self.piece = self.width, max(1, min(ROWS, PIECE_BYTES // self._row_bytes))
        self._check()

    def _is_raw(self, page: tifffile.TiffPage) -> bool:
        """Whether the rows lie one after the other in the file, as they are."""
        ends = [offset + count for offset, count in zip(self._offsets, self._counts, strict=True)]
        return (
            not (page.is_tiled or page.compression != 1 or page.predictor != 1 or self._planes > 1)
            and page.fillorder == 1
            and list(self._offsets[1:]) == ends[:-1]
            and len(ends) > 0
            and ends[-1] - self._offsets[0] >= self.height * self._row_bytes
        )

    def _check(self) -> None:
        width, height = self.piece
        pieces = -(-self.width // width) * -(-self.height // height) * self._planes
        if not self._raw and min(len(self._offsets), len(self._counts)) < pieces:
            raise SlideError(f"damaged: its directory lists {len(self._offsets)} of {pieces} pieces")
        if width * height * self.samples * self.dtype.itemsize > PIECE_BYTES:
            raise SlideError(
                f"too large: {width} × {height} pixels are compressed in one piece, which would have to be in memory "
                "at once; write it again in tiles"
            )

    def missing(self) -> bool:
        """Whether some pieces were never written."""
        return not self._raw and 0 in self._counts

    def decode(self, file: int, index: int) -> np.ndarray | None:
        """A piece as uint8 RGB [height, width, 3], None where the file holds none."""
        if self._raw:
            return self._rgb(self._read_rows(file, index))
        pieces = -(-self.width // self.piece[0]) * -(-self.height // self.piece[1])
        planes = [self._decode_plane(file, index + plane * pieces) for plane in range(self._planes)]
        if any(plane is None for plane in planes):
            return None
        return self._rgb(planes[0] if self._planes == 1 else np.concatenate(planes, axis=2))

    def _decode_plane(self, file: int, index: int) -> np.ndarray | None:
        offset, count = self._offsets[index], self._counts[index]
        if count == 0:
            return None
        data = _read(file, offset, count)
        if self._jpeg:
            return self._decode_jpeg(data, index)
        # [depth, height, width, samples]; the depth is 1.
        return self._decode(data, index)[0][0]

    def _decode_jpeg(self, data: bytes, index: int) -> np.ndarray:
        if JPEG_END not in data[-64:] or HOLE in data:
            _check_jpeg(data, self._tables)
        width, rows = self.piece
        if not self._tiled:
            rows = min(rows, self.height - index * rows)
        # Asked for by its shape, a piece whose header lies about its size is refused before it takes memory.
        shape = (rows, width) if self.samples == 1 else (rows, width, self.samples)
        pixels = np.empty(shape, np.uint8)
        imagecodecs.jpeg8_decode(
            data, tables=self._tables, colorspace=self._spaces[0], outcolorspace=self._spaces[1], out=pixels
        )
        return pixels.reshape(rows, width, self.samples)

    def _read_rows(self, file: int, index: int) -> np.ndarray:
        top = index * self.piece[1]
        rows = min(self.piece[1], self.height - top)
        data = _read(file, self._offsets[0] + top * self._row_bytes, rows * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(rows, self.width, self.samples)

    def _rgb(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [height, width, samples] to uint8 RGB on white."""
        if pixels.dtype != np.uint8:
            pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535).reshape(pixels.shape)
        if self.samples == 3:
            return pixels
        colours = 1 if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) else 3
        colour, alpha = pixels[..., :colours], pixels[..., -1:].astype(np.uint16)
        if self.photometric == WHITE_IS_ZERO:
            colour = 255 - colour
        if self._alpha == STRAIGHT:
            colour = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        elif self._alpha == PREMULTIPLIED:
            colour = np.minimum(colour + (255 - alpha), 255).astype(np.uint8)
        return np.broadcast_to(colour, (*colour.shape[:2], 3))


def _read(file: int, offset: int, count: int) -> bytes:
    # A damaged directory may say more than there is memory for.
    if (beyond := offset + count - os.fstat(file).st_size) > 0:
        raise ValueError(f"the file ends {beyond} bytes too early")
    if count > 2 * PIECE_BYTES:
        raise ValueError(f"a piece of {count} bytes")
    data = os.pread(file, count, offset)
    if len(data) < count:
        raise ValueError(f"{len(data)} of {count} bytes could be read")
    return data


def _check_jpeg(data: bytes, tables: bytes | None) -> None:
    """Raise when a decoder that tells of every irregularity does."""
    whole = tables[:-2] + data[2:] if tables else data
    pyvips.Image.jpegload_buffer(whole, fail_on="warning").avg()


def _pyramid(pages: list[tifffile.TiffPage], vendor: str | None) -> tuple[tifffile.TiffPage, list[tifffile.TiffPage]]:
    """The full image, and it and its reductions in order of size."""
    if not pages:
        raise Unsupported("no image in the TIFF")
    base = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    _check_kind(base, vendor)
    levels = {(base.imagewidth, base.imagelength): base}
    children = list(base.pages) if base.subifds else []
    for page in sorted([*pages, *children], key=lambda page: -page.imagewidth * page.imagelength):
        size = page.imagewidth, page.imagelength
        named = vendor == "aperio" or page in children or page.subfiletype & REDUCED_IMAGE
        if size not in levels and named and _is_reduction(page, base):
            levels[size] = page
    return base, list(levels.values())


def _is_reduction(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page shows what `base` shows and can be decoded as it is; labels and overviews do not."""
    if 0 in (page.imagewidth, page.imagelength) or page.subfiletype & MACRO:
        return False
    kind = (page.is_tiled, page.compression, page.samplesperpixel, page.photometric, page.dtype, page.planarconfig)
    if kind != (base.is_tiled, base.compression, base.samplesperpixel, base.photometric, base.dtype, base.planarconfig):
        return False
    across, down = base.imagewidth / page.imagewidth, base.imagelength / page.imagelength
    # A side of few pixels is rounded by a large part of itself.
    tolerance = 0.01 + 1 / min(page.imagewidth, page.imagelength)
    if min(across, down) < 1 or abs(across / down - 1) > tolerance:
        return False
    try:
        # In some slides a reduction lacks tiles that the full image has.
        return not _Page(page).missing()
    except SlideError:
        return False


def _check_kind(page: tifffile.TiffPage, vendor: str | None) -> None:
    """Raise unless pixels of this kind can be made RGB here."""
    if 0 in (page.imagewidth, page.imagelength):
        raise SlideError("damaged: an image without pixels")
    grey = page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if page.sampleformat != 1 or (grey and page.bitspersample == 16):
        bits = f"{page.bitspersample}-bit {'greyscale' if grey else 'samples'}"
        raise SlideError(f"no brightfield slide: {bits} (fluorescence or a measurement?)")
    if page.bitspersample not in BIT_DEPTHS or page.imagedepth > 1:
        raise Unsupported(f"{page.bitspersample} bits per sample are not read")
    wanted = (1, 2) if grey else (3, 4)
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR) or page.samplesperpixel not in wanted:
        raise Unsupported(f"{page.samplesperpixel} samples of the kind {page.photometric!s} are not read")
    known = page.compression == JPEG or (page.photometric != YCBCR and page.compression in OTHER_COMPRESSIONS)
    jpeg_2000 = vendor != "aperio" and page.photometric != YCBCR and page.compression in JPEG_2000
    if not known and not jpeg_2000:
        raise Unsupported(f"compression {page.compression!s} of {page.photometric!s} is not read")


def _stated(page: tifffile.TiffPage) -> tuple[list[Stated], float]:
    """What the page says of its resolution, and the power of its objective (0: nothing)."""
    fields = {}
    if page.description.startswith("Aperio"):
        fields = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", page.description))
    unit = UM_PER_RESOLUTION_UNIT.get(int(page.resolutionunit), 0.0)
    pixels_per_unit = [_ratio(page.tags.valueof(tag)) for tag in (282, 283)]
    tags = Stated("the TIFF's resolution", *(unit / n if n > 0 else 0.0 for n in pixels_per_unit), firm=False)
    return [Stated("aperio.MPP", number(fields.get("MPP")), 0.0), tags], number(fields.get("AppMag"))


def _ratio(value: tuple[int, int] | None) -> float:
    numerator, denominator = value or (0, 1)
    return numerator / denominator if denominator else 0.0

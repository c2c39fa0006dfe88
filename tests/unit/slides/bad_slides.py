"""Slides as they come: damaged, odd, or no slides at all. Small files, made here, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

SIDE = 768
TILE = 128
TEXT = f"Aperio Image Library v11.2.1\r\n{SIDE}x{SIDE} ({TILE}x{TILE}) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
CUTS = 20


@dataclass(frozen=True)
class Bad:
    """`reason` is a pattern that the reason of exclusion matches; None: the slide can be used.

    Where `either`, it depends on the place of the damage whether the slide can be used.
    """

    path: Path
    reason: str | None
    either: bool = False


def make_bad_slides(directory: Path, tissue: Callable[[int], np.ndarray]) -> dict[str, Bad]:
    """Write the corpus. `tissue(side)` paints an ordinary slide, uint8 RGB [side, side, 3]."""
    image = tissue(SIDE)
    whole = _write(directory / "whole.svs", image)
    bad = {"whole": Bad(whole, None)}
    content = whole.read_bytes()

    def add(name: str, reason: str | None, data: bytes | None = None, either: bool = False) -> Path:
        path = directory / name
        if data is not None:
            path.write_bytes(data)
        bad[path.stem] = Bad(path, reason, either)
        return path

    directory_last = _directory_last(content)
    for cut in range(CUTS):
        end = len(content) * cut // CUTS
        add(f"cut_{cut}.svs", "cannot be opened|damaged", content[:end])
        add(f"cut_before_its_directory_{cut}.svs", "cannot be opened", directory_last[:end])
    rng = np.random.default_rng(0)
    for hole in range(CUTS):
        begin, size = rng.integers(0, len(content)), rng.integers(2_000, 20_000)
        data = bytearray(content)
        data[begin : begin + size] = bytes(len(data[begin : begin + size]))
        add(f"hole_{hole}.svs", "cannot be opened|damaged", bytes(data), either=True)
    add("wrong_magic.svs", "cannot be opened", b"MZ\0\0" + content[4:])
    add("text.svs", "cannot be opened", b"<html>Not found</html>\n" * 50)
    add("empty.svs", "cannot be opened", b"")
    add("zeros.svs", "cannot be opened", bytes(100_000))
    add("directory_points_to_itself.svs", "cannot be opened|damaged", _circular(content))

    def svs(name: str, reason: str | None, samples: np.ndarray = image, text: str | None = TEXT, **options) -> None:
        _write(add(name, reason), samples, text, **options)

    svs("no_mpp.svs", "no magnification", text=TEXT.split("|")[0])
    svs("mpp_zero.svs", "no magnification", text=TEXT.split("|")[0] + "|MPP = 0")
    svs("mpp_nan.svs", "no magnification", text=TEXT.split("|")[0] + "|MPP = nan")
    svs("mpp_of_a_printer.tif", "no magnification", text=None, resolution=(72, 72), resolutionunit="INCH")
    oblong = {"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}
    svs("oblong_pixels.tif", "pixels are not square", text=None, **oblong)
    svs("no_tissue.svs", "no tissue", np.full_like(image, 243))
    pen = np.full_like(image, 243)
    pen[50:-50, 50:-50] = (30, 60, 180)
    svs("all_pen.svs", "tissue|tile|pen", pen)
    svs("one_pixel.svs", "no tissue|no tile|smaller", image[:1, :1])
    svs("one_pixel_level.svs", None, levels=(4, SIDE))
    svs("big_tiff.svs", None, layout={"bigtiff": True})
    svs("big_endian.svs", None, layout={"byteorder": ">"})
    svs("sixteen_bits.svs", None, image.astype(np.uint16) * 257, compression="deflate")
    svs("sixteen_bit_grey.tif", "16-bit greyscale", image[..., 0].astype(np.uint16), photometric="minisblack")
    svs("floats.tif", "no brightfield slide", image[..., 0] / 255, photometric="minisblack", compression="deflate")
    svs("greyscale.svs", "no tissue", image[..., 1], photometric="minisblack")
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:100] = 0
    svs("alpha.svs", None, np.dstack([image, alpha]), compression="deflate", extrasamples=["unassalpha"])
    in_cm = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    svs("strips.tif", None, text=None, tile=None, compression="lzw", rowsperstrip=50, **in_cm)
    svs("palette.tif", "cannot be opened", image[..., 0], photometric="palette", compression="lzw",
        colormap=np.zeros((3, 256), np.uint16), tile=None)  # fmt: skip
    _write_jpeg_2000(add("jpeg_2000.svs", None), image)
    _write_jpeg_2000(add("jpeg_2000_of_ycbcr.svs", None), _ycbcr(image), compression=33003)
    pixels = Image.fromarray(image)
    pixels.save(add("plain_without_mpp.jpg", "no magnification"))
    pixels.save(add("plain_without_mpp_either.png", "no magnification"))
    for name in ("override.jpg", "override_progressive.jpg"):
        pixels.save(add(name, None), progressive="progressive" in name)
    Image.fromarray(np.dstack([image, alpha])).save(add("override_alpha.png", None))
    for name, kind in (("override_cut.jpg", "override.jpg"), ("override_cut_too.png", "override_alpha.png")):
        data = (directory / kind).read_bytes()
        add(name, "cannot be opened|damaged", data[: len(data) // 2])
    return bad


def write_repeated(path: Path, rows: int, columns: int, tile: int = 512) -> None:
    """A BigTIFF of `rows` × `columns` tiles, all of which are one and the same place of a small file."""
    blocks = np.random.default_rng(0).integers(150, 255, (tile // 32, tile // 32, 3), np.uint8)
    options = {"dtype": np.uint8, "tile": (tile, tile), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    jpeg = imagecodecs.jpeg8_encode(
        blocks.repeat(32, axis=0).repeat(32, axis=1), 80, colorspace="RGB", outcolorspace="RGB"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        blanks = (b"." for _ in range(rows * columns))
        file.write(blanks, shape=(rows * tile, columns * tile, 3), **options)
    place = path.stat().st_size
    with path.open("ab") as file:
        file.write(jpeg)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags
        tags["TileByteCounts"].overwrite([len(jpeg)] * (rows * columns))
        tags["TileOffsets"].overwrite([place] * (rows * columns))


def _write(
    path: Path, image: np.ndarray, text: str | None = TEXT, levels: tuple[int, ...] = (4,), layout: dict | None = None,
    **options,
) -> Path:  # fmt: skip
    options = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "jpeg"} | options
    if options["compression"] == "jpeg":
        options["compressionargs"] = {"level": 90}
    if image.dtype != np.uint8:
        options["compression"] = "deflate"
        options.pop("compressionargs", None)
    with tifffile.TiffWriter(path, **(layout or {})) as file:
        file.write(image, description=text, metadata=None, **options)
        for level in levels if image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 else ():
            reduced = np.asarray(Image.fromarray(image).reduce(level))
            file.write(reduced, description=text and f"{text.split('|')[0]} ->", metadata=None, **options)
    return path


def _write_jpeg_2000(path: Path, image: np.ndarray, compression: int = 33005) -> None:
    tiles = (
        imagecodecs.jpeg2k_encode(
            image[y : y + TILE, x : x + TILE].copy(), reversible=True, mct=False, codecformat="j2k"
        )
        for y in range(0, SIDE, TILE)
        for x in range(0, SIDE, TILE)
    )
    with tifffile.TiffWriter(path) as file:
        file.write(
            tiles, shape=image.shape, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb", compression=compression,
            description=TEXT.replace("JPEG/RGB", "J2K"), metadata=None,
        )  # fmt: skip


def _ycbcr(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("YCbCr"))


def _directory_last(content: bytes) -> bytes:
    """The first directory of a TIFF, its reference moved to a copy at the end, as scanners write it."""
    first = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[first : first + 2], "little")
    entries = content[first : first + 2 + 12 * count] + bytes(4)
    end = len(content) + len(content) % 2
    return content[:4] + end.to_bytes(4, "little") + content[8:].ljust(end - 8, b"\0") + entries


def _circular(content: bytes) -> bytes:
    """A TIFF whose first directory names itself as the next one, and so on without end, and which lacks its tiles."""
    first = int.from_bytes(content[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    return content[:end] + first.to_bytes(4, "little") + content[end + 4 : len(content) // 2]

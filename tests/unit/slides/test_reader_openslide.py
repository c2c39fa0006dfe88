"""What only OpenSlide knows: the same pixels by blocks as by single regions, and DICOM."""

import struct

import imagecodecs
import numpy as np
import openslide
import pytest
from PIL import Image

from histofuse.slides.reader import SlideError, open_slide
from histofuse.slides.reader_openslide import OpenSlideSlide

WHOLE_SLIDE_IMAGE, JPEG_BASELINE = b"1.2.840.10008.5.1.4.1.1.77.1.6", b"1.2.840.10008.1.2.4.50"


def test_the_real_slide_is_the_same_either_way(real_slide):
    coords = np.array([(x, y) for y in range(0, 2967, 500) for x in range(-100, 2220, 500)])
    with OpenSlideSlide(real_slide, None) as slide, open_slide(real_slide) as ours:
        assert (
            (slide.mpp, slide.levels, slide.format) == (ours.mpp, ours.levels, ours.format) == (0.499, (1.0,), "aperio")
        )
        np.testing.assert_array_equal(slide.thumbnail(8.0), ours.thumbnail(8.0))
        for mpp in (0.5, 1.0):
            for (rows, tiles), (our_rows, our_tiles) in zip(
                slide.tiles(coords, 224, mpp, batch=99), ours.tiles(coords, 224, mpp, batch=99), strict=True
            ):
                by_place, our_place = np.argsort(rows), np.argsort(our_rows)
                np.testing.assert_array_equal(tiles[by_place], our_tiles[our_place])


def test_what_was_not_scanned_is_white(write_slide, monkeypatch):
    def half_transparent(self, location, level, size):
        region = Image.new("RGBA", size, (200, 100, 150, 255))
        region.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
        return region

    monkeypatch.setattr(openslide.OpenSlide, "read_region", half_transparent)
    with OpenSlideSlide(write_slide(), None) as slide:
        tile = slide.read(200, 0, 100, 0.5)
    assert (tile[:, :56] == 255).all()
    assert (tile[:, 56:] == (200, 100, 150)).all()


def test_dicom(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((900, 700), Image.Resampling.BICUBIC))
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(image, mpp=0.5))
    with open_slide(path) as slide:
        assert (slide.format, slide.width, slide.height, slide.mpp) == ("dicom", 900, 700, pytest.approx(0.5))
        assert np.abs(slide.thumbnail(0.5).astype(int) - image).mean() < 3
        np.testing.assert_array_equal(slide.read(200, 300, 100, 0.5), slide.thumbnail(0.5)[300:400, 200:300])
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(SlideError, match=r"cannot be opened|damaged"), open_slide(path) as slide:
        slide.thumbnail(0.5)


def dicom(image, mpp, tile=256):
    """The least whole-slide DICOM that OpenSlide takes: one level of JPEG frames, tile by tile."""
    height, width = image.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(image, [(0, rows * tile - height), (0, columns * tile - width), (0, 0)], mode="edge")
    frames = [
        imagecodecs.jpeg8_encode(padded[y : y + tile, x : x + tile].copy(), 95)
        for y in range(0, rows * tile, tile)
        for x in range(0, columns * tile, tile)
    ]
    spacing = f"{mpp / 1000:g}\\{mpp / 1000:g}".encode()
    measures = item(element(0x0028, 0x0030, b"DS", spacing) + element(0x0018, 0x0050, b"DS", b"0.001"))
    groups = item(element(0x0028, 0x9110, b"SQ", measures))
    optics = item(element(0x0048, 0x0106, b"SH", b"1") + element(0x0048, 0x0112, b"DS", b"20"))
    meta = element(0x0002, 0x0001, b"OB", b"\0\1") + b"".join(
        element(0x0002, number, b"UI", uid)
        for number, uid in ((2, WHOLE_SLIDE_IMAGE), (3, b"2.25.1"), (0x10, JPEG_BASELINE), (0x12, b"2.25.5"))
    )

    def short(number):
        return b"US", struct.pack("<H", number)

    def long(number):
        return b"UL", struct.pack("<I", number)

    elements = [
        (0x0008, 0x0008, b"CS", rb"ORIGINAL\PRIMARY\VOLUME\NONE"), (0x0008, 0x0016, b"UI", WHOLE_SLIDE_IMAGE),
        (0x0008, 0x0018, b"UI", b"2.25.1"), (0x0008, 0x0060, b"CS", b"SM"), (0x0020, 0x000D, b"UI", b"2.25.2"),
        (0x0020, 0x000E, b"UI", b"2.25.3"), (0x0020, 0x0052, b"UI", b"2.25.4"),
        (0x0020, 0x9311, b"CS", b"TILED_FULL"), (0x0028, 0x0002, *short(3)), (0x0028, 0x0004, b"CS", b"YBR_FULL_422"),
        (0x0028, 0x0006, *short(0)), (0x0028, 0x0008, b"IS", str(len(frames)).encode()), (0x0028, 0x0010, *short(tile)),
        (0x0028, 0x0011, *short(tile)), (0x0028, 0x0100, *short(8)), (0x0028, 0x0101, *short(8)),
        (0x0028, 0x0102, *short(7)), (0x0028, 0x0103, *short(0)), (0x0048, 0x0006, *long(width)),
        (0x0048, 0x0007, *long(height)), (0x0048, 0x0105, b"SQ", optics), (0x0048, 0x0302, *long(1)),
        (0x0048, 0x0303, *long(1)), (0x5200, 0x9229, b"SQ", groups),
    ]  # fmt: skip
    body = b"".join(element(*one) for one in elements)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    pixels += item(b"") + b"".join(item(frame + b"\0" * (len(frame) % 2)) for frame in frames)
    pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return bytes(128) + b"DICM" + element(0x0002, 0x0000, *long(len(meta))) + meta + body + pixels


def element(group, number, kind, value):
    """A DICOM data element, explicit little-endian."""
    if len(value) % 2:
        value += b"\0" if kind in (b"UI", b"OB") else b" "
    if kind in (b"OB", b"SQ"):
        return struct.pack("<HH2sHI", group, number, kind, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def item(value):
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value

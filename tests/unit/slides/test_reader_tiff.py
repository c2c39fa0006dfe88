"""Ordinary TIFF in its many kinds: the pixels of OpenSlide, or of the image that was written."""

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from histofuse.slides import reader_slide, reader_tiff
from histofuse.slides.reader import SlideError, open_slide

MPP = 0.5


@pytest.fixture(scope="module")
def image(picture):
    return picture(700, 500)


@pytest.fixture(scope="module")
def picture():
    """A function: a smooth random image, uint8 RGB [height, width, 3]."""

    def make(width, height, seed=0):
        noise = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
        return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))

    return make


def whole(path, mpp=MPP):
    with open_slide(path, mpp) as slide:
        return slide.thumbnail(mpp), slide.format


def by_openslide(path):
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((0, 0), 0, slide.dimensions)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB"))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg", "photometric": "rgb"},
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)},
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate"},
        {"compression": None},
        {"compression": None, "byteorder": ">", "bigtiff": True},
        {"compression": "deflate", "planarconfig": "separate"},
    ],
    ids=str,
)
def test_tiled_tiff_gives_the_pixels_of_openslide(image, tmp_path, options):
    path = tmp_path / "a.tif"
    layout = {key: options[key] for key in ("byteorder", "bigtiff") if key in options}
    options = {"photometric": "rgb"} | {key: value for key, value in options.items() if key not in layout}
    planes = np.moveaxis(image, 2, 0) if options.get("planarconfig") else image
    with tifffile.TiffWriter(path, **layout) as file:
        file.write(planes, tile=(128, 128), metadata=None, **options)
    pixels, kind = whole(path)
    assert kind == "generic-tiff"
    np.testing.assert_array_equal(pixels, by_openslide(path))


@pytest.mark.parametrize("compression", [None, "lzw", "jpeg", "zstd"])
@pytest.mark.parametrize("rows", [500, 48])
def test_strips_are_read_though_openslide_refuses_them(image, tmp_path, compression, rows):
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, image, photometric="rgb", compression=compression, rowsperstrip=rows, metadata=None)
    assert openslide.OpenSlide.detect_format(path) is None
    pixels, kind = whole(path)
    assert kind == "tiff"
    assert np.abs(pixels.astype(int) - image).mean() <= (2 if compression == "jpeg" else 0)


def test_a_raw_strip_is_read_by_rows(image, tmp_path, monkeypatch):
    monkeypatch.setattr(reader_tiff, "PIECE_BYTES", 100_000)
    path = tmp_path / "raw.tif"
    tifffile.imwrite(path, image, photometric="rgb", metadata=None)
    with open_slide(path, MPP) as slide:
        assert slide._levels[0].piece_height == 47
        np.testing.assert_array_equal(slide.thumbnail(MPP), image)
        np.testing.assert_array_equal(slide.read(600, 400, 100, MPP), image[400:, 600:])


def test_one_large_compressed_strip_is_a_reason(image, tmp_path, monkeypatch):
    monkeypatch.setattr(reader_tiff, "PIECE_BYTES", 100_000)
    path = tmp_path / "strip.tif"
    tifffile.imwrite(path, image, photometric="rgb", compression="lzw", rowsperstrip=500, metadata=None)
    with pytest.raises(SlideError, match=r"too large: 700 × 500 pixels are compressed in one piece"):
        open_slide(path, MPP)


@pytest.mark.parametrize("tile", [(128, 128), None])
def test_other_samples_become_rgb_on_white(image, tmp_path, tile):
    grey, ramp = image[..., 0], np.linspace(0, 255, image[..., 0].size).reshape(image.shape[:2]).astype(np.uint8)
    alpha = ramp[..., None] / 255
    on_white = image * alpha + 255 * (1 - alpha)
    premultiplied = np.rint(image * alpha).astype(np.uint8)
    kinds = {
        "grey": (grey, {"photometric": "minisblack"}, np.repeat(grey[..., None], 3, axis=2)),
        "inverse": (255 - grey, {"photometric": "miniswhite"}, np.repeat(grey[..., None], 3, axis=2)),
        "16 bits": (image.astype(np.uint16) * 257, {"photometric": "rgb"}, image),
        "straight alpha": (np.dstack([image, ramp]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, on_white),
        "premultiplied": (
            np.dstack([premultiplied, ramp]), {"photometric": "rgb", "extrasamples": ["assocalpha"]}, on_white,
        ),
        "unknown channel": (np.dstack([image, ramp]), {"photometric": "rgb", "extrasamples": ["unspecified"]}, image),
    }  # fmt: skip
    for name, (samples, options, expected) in kinds.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, samples, tile=tile, metadata=None, compression="deflate", **options)
        assert np.abs(whole(path)[0] - expected).max() <= 1, name


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(np.uint16, "16-bit greyscale"), (np.float32, "32-bit greyscale"), (np.int8, "8-bit greyscale")],
)
def test_measurements_are_no_brightfield_slides(tmp_path, samples, reason):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((300, 300), samples), tile=(128, 128), metadata=None)
    with pytest.raises(SlideError, match=f"no brightfield slide: {reason}"):
        open_slide(path, MPP)


def test_jpeg_2000_has_the_colours_that_were_written(image, tmp_path, write_slide):
    plain = tmp_path / "plain.tif"
    options = {"photometric": "rgb", "tile": (128, 128), "metadata": None, "compressionargs": {"reversible": True}}
    tifffile.imwrite(plain, image, compression="jpeg2000", **options)
    np.testing.assert_array_equal(whole(plain)[0], image)
    aperio = tmp_path / "aperio.svs"
    text = "Aperio Image Library v11.2.1\r\n700x500 (128x128) J2K/KDU Q=70|AppMag = 20|MPP = 0.5"
    tiles = [
        np.pad(part, [(0, 128 - part.shape[0]), (0, 128 - part.shape[1]), (0, 0)])
        for y in range(0, 500, 128)
        for x in range(0, 700, 128)
        for part in [image[y : y + 128, x : x + 128]]
    ]
    encoded = (imagecodecs.jpeg2k_encode(tile, reversible=True, codecformat="j2k") for tile in tiles)
    with tifffile.TiffWriter(aperio) as file:
        file.write(
            encoded, shape=image.shape, dtype=np.uint8, tile=(128, 128), photometric="rgb", compression=33005,
            description=text, metadata=None,
        )  # fmt: skip
    pixels, kind = whole(aperio)
    assert kind == "aperio"
    np.testing.assert_array_equal(pixels, image)


def test_levels_are_the_reductions_of_the_image(picture, tmp_path):
    image = picture(2048, 1024)
    options = {"photometric": "rgb", "tile": (128, 128), "metadata": None, "compression": "deflate"}

    def reduced(k):
        return np.asarray(Image.fromarray(image).reduce(k))

    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(reduced(16), **options)  # some writers put a preview first
        file.write(image, subifds=1, **options)
        file.write(reduced(4), subfiletype=1, **options)
        file.write(reduced(2), subfiletype=1, **options)
        file.write(picture(300, 300), subfiletype=1, **options)  # a label
        file.write(reduced(8), subfiletype=1, photometric="rgb", compression="deflate", metadata=None)  # strips
    with open_slide(path, 0.25) as slide:
        assert slide.levels == (1.0, 2.0, 4.0)
        assert (slide.width, slide.height) == (2048, 1024)
        np.testing.assert_array_equal(slide.read(512, 256, 100, 1.0), reduced(4)[64:164, 128:228])
        # No level: the next finer one by whole numbers of pixels is what Pillow's reduce gives.
        np.testing.assert_array_equal(
            slide.read(512, 256, 100, 2.0)[:96], np.asarray(Image.fromarray(reduced(4)).reduce(2))[32:128, 64:164]
        )


def test_a_level_with_gaps_is_not_used(write_slide):
    path = write_slide()
    with open_slide(path) as slide:
        assert slide.levels == (1.0, 4.0)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[1].tags["TileByteCounts"].overwrite(0)
    with open_slide(path) as slide:
        assert slide.levels == (1.0,)


def test_tiles_never_written_are_white(image, tmp_path):
    path = tmp_path / "sparse.tif"
    tiles = iter([image[:128, :128], None, None, image[128:256, 128:256]])
    tifffile.imwrite(
        path, tiles, shape=(256, 256, 3), dtype=np.uint8, tile=(128, 128), photometric="rgb", compression="deflate",
        metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = file.pages[0].databytecounts
        file.pages[0].tags["TileByteCounts"].overwrite([counts[0], 0, 0, counts[3]])
    pixels, _ = whole(path)
    np.testing.assert_array_equal(pixels, by_openslide(path))
    assert (pixels[:128, 128:] == 255).all()
    np.testing.assert_array_equal(pixels[128:, 128:], image[128:256, 128:256])


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (101_600, 101_600), "resolutionunit": "INCH"}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_resolution_tags_count_where_they_are_plausible(image, tmp_path, tags, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), metadata=None, **tags)
    if mpp is None:
        with pytest.raises(SlideError, match=r"no magnification: .* use mpp_overrides"):
            open_slide(path)
    else:
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(mpp)


def test_oblong_pixels_are_a_reason_unless_overridden(image, tmp_path):
    path = tmp_path / "a.tif"
    tags = {"resolution": (20_000, 19_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), metadata=None, **tags)
    with pytest.raises(SlideError, match=r"pixels are not square: .* 0\.5 × 0\.526316 micrometres; use mpp_overrides"):
        open_slide(path)
    with open_slide(path, 0.5) as slide:
        assert slide.mpp == 0.5


def test_a_hole_inside_a_tile_is_damage(image, tmp_path):
    path = tmp_path / "a.tif"
    options = {"photometric": "ycbcr", "compression": "jpeg", "compressionargs": {"level": 95}}
    tifffile.imwrite(path, image, tile=(256, 256), metadata=None, **options)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    content = bytearray(path.read_bytes())
    content[offset + count // 4 : offset + count // 2] = bytes(count // 2 - count // 4)
    path.write_bytes(content)
    with open_slide(path, MPP) as slide:
        slide.read(0, 0, 256, MPP)
        with pytest.raises(SlideError, match="damaged: cannot be read at x=256, y=0"):
            slide.read(200, 0, 100, MPP)


def test_each_piece_is_decoded_once_and_in_order(image, tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, tile=(128, 128), photometric="rgb", compression="deflate", metadata=None)
    decoded = []
    decode = reader_tiff._Page.decode
    monkeypatch.setattr(reader_tiff._Page, "decode", lambda *args: decoded.append(args[2]) or decode(*args))
    coords = np.array([(x, y) for y in range(-60, 500, 45) for x in range(-60, 700, 45)])
    shuffled = np.random.default_rng(0).permutation(coords)
    canvas = np.full((700, 900, 3), 255, np.uint8)
    canvas[100:600, 100:800] = image
    with open_slide(path, MPP) as slide:
        seen = np.zeros(len(coords), int)
        for rows, pixels in slide.tiles(shuffled, 90, MPP, batch=10):
            assert len(rows) <= 10
            seen[rows] += 1
            for (x, y), tile in zip(shuffled[rows], pixels):
                np.testing.assert_array_equal(tile, canvas[y + 100 : y + 190, x + 100 : x + 190])
    assert (seen == 1).all()
    assert decoded == list(range(24))


def test_tiles_do_not_depend_on_memory_or_company(image, tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, tile=(128, 128), photometric="rgb", compression="deflate", metadata=None)
    coords = np.random.default_rng(0).integers(-50, 700, (200, 2))

    def read(slide, coords):
        tiles = np.zeros((len(coords), 50, 50, 3), np.uint8)
        for rows, pixels in slide.tiles(coords, 50, 1.1):
            tiles[rows] = pixels
        return tiles

    with open_slide(path, MPP) as slide:
        expected = read(slide, coords)
        np.testing.assert_array_equal([slide.read(x, y, 50, 1.1) for x, y in coords[:20]], expected[:20])
        monkeypatch.setattr(reader_slide, "IN_FLIGHT_BYTES", 300_000)
        np.testing.assert_array_equal(read(slide, coords), expected)
        assert list(slide.tiles(np.empty((0, 2), int), 50, 1.1)) == []

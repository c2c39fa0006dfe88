"""Slides are read where, and at the resolution that, the caller says; damaged ones give a reason."""

import math

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from histofuse.io import InputError
from histofuse.slides.reader import SlideError, open_slide


def test_states_what_openslide_states(write_slide):
    path = write_slide()
    assert openslide.OpenSlide(path).properties["openslide.vendor"] == "aperio"
    with open_slide(path) as slide:
        assert (slide.width, slide.height, slide.mpp) == (1024, 1024, 0.5)


@pytest.mark.parametrize(
    ("fields", "override", "mpp"),
    [
        ("AppMag = 40|MPP = 0.2520", None, 0.252),
        ("AppMag = 40|MPP = 0.2520", 0.5, 0.5),
        ("AppMag = 40", None, 0.25),
        ("AppMag = 20", None, 0.5),
        ("AppMag = 20|MPP = 0", None, 0.5),
        ("AppMag = 20|MPP = unknown", None, 0.5),
        ("", 0.4, 0.4),
    ],
)
def test_resolution_comes_from_override_then_mpp_then_objective(write_slide, fields, override, mpp):
    with open_slide(write_slide(fields=fields), override) as slide:
        assert slide.mpp == pytest.approx(mpp)


@pytest.mark.parametrize(("fields", "override"), [("", None), ("MPP = 500", None), ("MPP = 0.5", 0.0)])
def test_no_or_implausible_resolution_is_a_reason(write_slide, fields, override):
    with pytest.raises(SlideError, match="no magnification"):
        open_slide(write_slide(fields=fields), override)


def test_what_is_no_slide_is_a_reason(write_slide, tmp_path):
    text = tmp_path / "text.svs"
    text.write_text("<html>Not found</html>")
    empty = tmp_path / "empty.svs"
    empty.touch()
    cut = tmp_path / "cut.svs"
    whole = write_slide().read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path in (text, empty):
        with pytest.raises(SlideError, match="cannot be opened"):
            open_slide(path)
    # Where a writer put the directory first, a cut file opens, and only reading shows what is missing.
    with pytest.raises(SlideError), open_slide(cut) as slide:
        slide.thumbnail(8.0)


def test_damage_inside_is_found_when_it_is_read(write_slide):
    path = write_slide()
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(SlideError, match="damaged: cannot be read at x=256, y=256 "):
        slide.read(300, 300, 100, 0.5)


def test_absent_file_is_the_callers_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.svs: there is no such slide file"):
        open_slide(tmp_path / "nowhere.svs")


def test_native_resolution_is_not_resampled(real_slide):
    with open_slide(real_slide) as slide, openslide.OpenSlide(real_slide) as reference:
        expected = np.asarray(reference.read_region((901, 1203), 0, (224, 224)).convert("RGB"))
        assert slide.mpp == 0.499
        np.testing.assert_array_equal(slide.read(901, 1203, 224, 0.5), expected)
        assert slide.footprint(224, 0.5) == 224
        assert slide.footprint(224, 1.0) == 448  # 224 × 1.0 / 0.499


@pytest.mark.parametrize(("mpp", "reductions"), [(0.25, ()), (1.0, ()), (1.0, (4,)), (2.0, (4,)), (3.0, (4,))])
def test_a_place_and_a_size_mean_the_same_at_every_resolution(write_slide, mpp, reductions):
    # Colours that grow evenly with the place tell where each pixel of the result lies.
    x, y = np.meshgrid(np.arange(1024), np.arange(1024))
    image = np.stack([x / 4, y / 4, np.full(x.shape, 128.0)], axis=2).astype(np.uint8)
    with open_slide(write_slide(image, reductions=reductions, quality=100)) as slide:
        tile = slide.read(256, 128, 64, mpp).astype(float)
    pixel = mpp / 0.5
    centres = (np.arange(64) + 0.5) * pixel
    inner = slice(4, -4)  # the filter sees no further than the region, so the rim is approximate
    np.testing.assert_allclose(tile[:, inner, 0].mean(axis=0), (256 + centres[inner]) / 4 - 0.5, atol=1.0)
    np.testing.assert_allclose(tile[inner, :, 1].mean(axis=1), (128 + centres[inner]) / 4 - 0.5, atol=1.0)


def test_reduction_is_antialiased(write_slide):
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    with open_slide(write_slide(stripes, reductions=(), quality=100)) as slide:
        tile = slide.read(0, 0, 64, 2.0)
    assert np.abs(tile.astype(float) - 127.5).max() < 12  # nearest neighbours would give 0 or 255


def test_outside_the_scan_is_white(write_slide):
    with open_slide(write_slide(np.full((512, 512, 3), 90, np.uint8))) as slide:
        tile = slide.read(448, 448, 128, 0.5)
    assert (tile[64:] == 255).all()
    assert (tile[:, 64:] == 255).all()
    assert np.abs(tile[:60, :60].astype(int) - 90).max() <= 2


@pytest.mark.parametrize("mpp", [0.5, 0.7, 4.0])
def test_thumbnail_is_the_whole_slide_whatever_the_bands(write_slide, mpp):
    image = np.asarray(Image.effect_noise((1000, 700), 60).convert("RGB"))
    with open_slide(write_slide(image, reductions=())) as slide:
        whole = slide.thumbnail(mpp)
        for rows in (1, 7, 16, 1000):
            bands = list(slide.bands(mpp, rows))
            assert all(len(band) == rows for band in bands[:-1])
            np.testing.assert_array_equal(np.concatenate(bands), whole)
    assert whole.shape == (math.ceil(350 / mpp), math.ceil(500 / mpp), 3)
    if mpp == 4.0:
        # 700 rows are 87.5 pixels of the thumbnail: its last row is half outside.
        expected = image[:696].reshape(87, 8, 125, 8, 3).mean(axis=(1, 3))
        assert np.abs(whole[:87] - expected).mean() < 2

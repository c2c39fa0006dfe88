"""Plain JPEG and PNG: streamed, RGB on white whatever they hold, and never wholly in memory."""

import numpy as np
import pytest
from PIL import Image

from histofuse.slides import reader_image
from histofuse.slides.reader import SlideError, open_slide


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((650, 470), Image.Resampling.BICUBIC))


def test_needs_a_resolution(image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path, dpi=(50_800, 50_800))
    with pytest.raises(SlideError, match=r"no magnification: .* use mpp_overrides"):
        open_slide(path)
    with open_slide(path, 0.5) as slide:
        assert (slide.width, slide.height, slide.mpp, slide.levels, slide.format) == (650, 470, 0.5, (1.0,), "png")


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_jpeg_has_the_pixels_of_pillow(image, tmp_path, options):
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, quality=95, subsampling=0, **options)
    with open_slide(path, 0.5) as slide, Image.open(path) as reference:
        assert np.abs(slide.thumbnail(0.5).astype(int) - np.asarray(reference)).max() <= 1


def test_png_of_every_kind_becomes_rgb_on_white(image, tmp_path):
    ramp = np.linspace(0, 255, image[..., 0].size).reshape(image.shape[:2]).astype(np.uint8)
    grey, alpha = image[..., 0], ramp[..., None] / 255
    three = np.repeat(grey[..., None], 3, axis=2)
    few = Image.fromarray(image).quantize(16)
    kinds = {
        "rgb": (Image.fromarray(image), image),
        "alpha": (Image.fromarray(np.dstack([image, ramp])), image * alpha + 255 * (1 - alpha)),
        "grey": (Image.fromarray(grey), three),
        "grey and alpha": (Image.fromarray(np.dstack([grey, ramp]), "LA"), three * alpha + 255 * (1 - alpha)),
        "16-bit grey": (Image.fromarray(grey.astype(np.uint16) * 257), three),
        "palette": (few, np.asarray(few.convert("RGB"))),
        "two colours": (Image.fromarray(grey > 99), np.where(three > 99, 255, 0)),
    }
    for name, (content, expected) in kinds.items():
        path = tmp_path / f"{name}.png"
        content.save(path)
        with open_slide(path, 0.5) as slide:
            assert np.abs(slide.thumbnail(0.5) - expected).max() <= 1, name


def test_places_are_read_in_any_order(image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    canvas = np.full((900, 900, 3), 255, np.uint8)
    canvas[100:570, 100:750] = image
    coords = np.random.default_rng(0).integers(-90, 600, (60, 2))
    with open_slide(path, 0.5) as slide:
        for rows, tiles in slide.tiles(coords, 80, 0.5, batch=7):
            for (x, y), tile in zip(coords[rows], tiles):
                np.testing.assert_array_equal(tile, canvas[y + 100 : y + 180, x + 100 : x + 180])
        np.testing.assert_array_equal(slide.read(200, 300, 80, 0.5), image[300:380, 200:280])
        np.testing.assert_array_equal(slide.read(100, 40, 80, 0.5), image[40:120, 100:180])


def test_what_must_be_in_memory_at_once_has_a_limit(image, tmp_path, monkeypatch):
    monkeypatch.setattr(reader_image, "WHOLE_IMAGE_BYTES", 1_000_000)
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path)
    with open_slide(path, 0.5):
        pass
    Image.fromarray(image).save(path, progressive=True)
    with pytest.raises(SlideError, match=r"too large: a progressive JPEG of 650 × 470 pixels"):
        open_slide(path, 0.5)


def test_damage_is_a_reason_only_where_it_is_read(image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with open_slide(path, 0.5) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 200, 0.5), image[:200, :200])
        with pytest.raises(SlideError, match=r"damaged: cannot be read at x=0, y=\d+ \("):
            slide.read(0, 300, 150, 0.5)

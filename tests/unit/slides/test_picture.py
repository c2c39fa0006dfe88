"""Pictures show the tissue's rim, the tiles and what was set aside, with a legend beneath them."""

import numpy as np
import pytest
from PIL import Image

from histofuse.slides.picture import NAMES, OPACITY, OUTLINE_COLOUR, TILE_COLOUR, TINTS, picture, without_legend
from histofuse.slides.quality import Survey

PINK, GLASS = (226, 160, 196), (243, 243, 243)


def view(height: int, width: int, **areas) -> Survey:
    """Tissue in the left half; `areas` maps the survey's maps to slices."""
    maps = {name: np.zeros((height, width), bool) for name in ("tissue", "pen", "fold", "black")}
    maps["tissue"][:, : width // 2] = True
    sharpness = np.where(maps["tissue"], 1, np.nan).astype(np.float32)
    for name, area in areas.items():
        if name == "blurred":
            sharpness[area] = 0.3
        else:
            maps[name][area] = True
    thumbnail = np.where(maps["tissue"][..., None], PINK, GLASS).astype(np.uint8)
    return Survey(thumbnail, **maps, sharpness=sharpness, mpp=8.0)


def count(image: Image.Image, colour: tuple) -> int:
    return int((np.asarray(image) == colour).all(axis=2).sum())


def test_the_rim_and_the_tiles():
    image = without_legend(picture(view(50, 60), np.array([[10, 10], [34, 10]]), 14.0))
    assert image.size == (240, 200)
    pixels = np.asarray(image)
    assert (pixels[100, [0, 1, 118, 119]] == OUTLINE_COLOUR).all()
    assert (pixels[[40, 96], 60] == TILE_COLOUR).all()
    assert (pixels[50, [40, 96, 136, 192]] == TILE_COLOUR).all()
    assert tuple(pixels[100, 30]) == PINK
    assert tuple(pixels[20, 200]) == GLASS


@pytest.mark.parametrize("name", TINTS)
def test_areas_are_tinted(name):
    image = picture(view(50, 60, **{name: np.s_[20:40, 5:25]}), np.zeros((0, 2)), 14.0)
    tint = np.rint(np.array(PINK) * (1 - OPACITY) + np.array(TINTS[name]) * OPACITY)
    assert tuple(np.asarray(image)[120, 60]) == tuple(tint)
    for other, colour in TINTS.items():  # the swatch is in the legend if and only if there is such an area
        assert (count(image, colour) > 100) == (other == name)


@pytest.mark.parametrize("shape", [(3000, 400), (400, 3000), (2000, 2000), (5, 9), (128, 96), (1, 1)])
def test_size(shape):
    areas = {name: np.s_[:1, :1] for name in TINTS}
    image = picture(view(*shape, **areas), np.array([[0, 0]]), min(14.0, shape[0]))
    assert max(image.size) <= 1024
    plain = without_legend(image)
    assert plain.width == image.width
    assert plain.height < image.height
    zoom = plain.width / shape[1]
    assert zoom <= 4
    if min(shape) > 10:
        assert plain.height / shape[0] == pytest.approx(zoom, rel=0.02)
        # Nothing of the tissue lies under the legend: the picture above it is whole.
        assert max(image.size) > 1000 or zoom == 4


def test_the_legend_can_be_read_at_any_width():
    areas = {name: np.s_[:9, :9] for name in TINTS}
    narrow, wide = (picture(view(300, width, **areas), np.zeros((0, 2)), 14.0) for width in (60, 600))
    legends = [image.height - without_legend(image).height for image in (narrow, wide)]
    assert legends[0] > legends[1]
    assert set(NAMES) == set(TINTS)


def test_pictures_without_a_legend_stay_whole():
    image = Image.new("RGB", (40, 30), PINK)
    assert without_legend(image).size == (40, 30)


def test_small_tiles_do_not_hide_the_tissue():
    corners = np.array([[x, y] for x in range(0, 1000, 14) for y in range(0, 2000, 14)])
    image = without_legend(picture(view(2000, 2000), corners, 14.0))
    assert count(image, TILE_COLOUR) == 0
    pixels = np.asarray(image)[:, 2 : image.width // 2 - 2].reshape(-1, 3)
    assert (pixels == PINK).all(axis=1).mean() > 0.6

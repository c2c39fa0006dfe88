"""Tiles lie where the tissue is, in raster order, and bad ones are left out."""

import numpy as np
import pytest

from histofuse.slides.quality import Survey
from histofuse.slides.reader import SlideError
from histofuse.slides.tiles import choose_tiles, grid_shares


def test_hand_case():
    mask = np.zeros((4, 6), bool)
    mask[:2, :2] = True  # the first tile is full
    mask[2:, 2] = True  # of the fifth, half
    coords, (share, none) = grid_shares([mask, np.zeros_like(mask)], 10.0, width=60, height=40, side=20)
    assert coords.dtype == np.int64
    assert coords.tolist() == [[x, y] for y in (0, 20) for x in (0, 20, 40)]
    assert share.tolist() == [1, 0, 0, 0, 0.5, 0]
    assert none.tolist() == [0] * 6


@pytest.mark.parametrize(("pixel", "side"), [(16.0, 224), (15.7, 224), (31.94, 449), (7.3, 100), (40.0, 33)])
def test_share_is_the_area_of_tissue(pixel, side):
    rng = np.random.default_rng(0)
    mask = np.kron(rng.random((12, 10)) < 0.5, np.ones((5, 5))).astype(bool)
    width, height = int(mask.shape[1] * pixel), int(mask.shape[0] * pixel)
    coords, (share,) = grid_shares([mask], pixel, width, height, side)
    assert len(coords) == (width // side) * (height // side)
    # An independent count: the mask's value under every level-0 pixel's centre.
    for (x, y), value in list(zip(coords, share))[::7]:
        rows = ((y + np.arange(side) + 0.5) / pixel).astype(int)
        columns = ((x + np.arange(side) + 0.5) / pixel).astype(int)
        assert value == pytest.approx(mask[np.ix_(rows, columns)].mean(), abs=0.02)


def test_raster_order_inside_the_slide():
    coords, (share,) = grid_shares([np.ones((30, 40), bool)], 8.0, width=317, height=239, side=50)
    assert coords.tolist() == [[x, y] for y in range(0, 200, 50) for x in range(0, 300, 50)]
    assert share == pytest.approx(1.0)


def test_a_slide_smaller_than_a_tile_has_none():
    coords, (share,) = grid_shares([np.ones((5, 5), bool)], 8.0, width=40, height=40, side=50)
    assert coords.shape == (0, 2)
    assert share.shape == (0,)


# Choosing by quality: a slide of 4 by 3 tiles of 16 mask pixels (128 µm), each of 256 level-0 pixels.
TILE = 16
TILES = {"mpp": 0.5, "tile_px": 256, "min_tissue": 0.5, "quality": {}}


class Blank:
    """A slide's size."""

    width, height, mpp = 4 * 256 + 100, 3 * 256 + 10, 0.5

    def footprint(self, size_px, mpp):
        return round(size_px * mpp / self.mpp)


@pytest.fixture
def view():
    """All tissue, all sharp."""
    shape = (3 * TILE + 1, 4 * TILE + 7)
    maps = {name: np.zeros(shape, bool) for name in ("pen", "fold", "black")}
    sharpness = np.ones(shape, np.float32)
    return Survey(np.zeros((*shape, 3), np.uint8), np.ones(shape, bool), **maps, sharpness=sharpness, mpp=8.0)


def part(column: int, row: int, share: float):
    """The upper part of a tile."""
    return np.s_[row * TILE : row * TILE + round(share * TILE), column * TILE : (column + 1) * TILE]


def test_tiles_carry_their_shares(view):
    view.tissue[part(1, 0, 0.25)] = False
    view.sharpness[part(2, 0, 0.5)] = 0.3
    view.pen[part(3, 0, 0.0625)] = True
    view.fold[part(0, 1, 0.25)] = True
    view.black[part(1, 1, 0.0625)] = True
    tiles = choose_tiles(view, Blank(), TILES)
    assert tiles.columns.tolist() == ["x", "y", "tissue", "blurred", "pen", "fold", "black"]
    assert tiles[["x", "y"]].to_numpy().tolist() == [[x * 256, y * 256] for y in range(3) for x in range(4)]
    assert tiles["x"].dtype == np.int64
    assert tiles["tissue"].tolist() == [1, 0.75] + [1] * 10
    expected = {"blurred": (2, 0.5), "pen": (3, 0.0625), "fold": (4, 0.25), "black": (5, 0.0625)}
    for name, (row, share) in expected.items():
        assert tiles[name].to_numpy().nonzero()[0].tolist() == [row]
        assert tiles.loc[row, name] == pytest.approx(share)


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [("blurred", 0.5, 0.5625), ("fold", 0.5, 0.5625), ("pen", 0.0625, 0.125), ("black", 0.0625, 0.125)],
)
def test_bad_tiles_are_dropped(view, name, kept, dropped):
    for column, share in ((1, kept), (2, dropped)):
        if name == "blurred":
            view.sharpness[part(column, 1, share)] = 0.3
        else:
            getattr(view, name)[part(column, 1, share)] = True
    found = {tuple(corner) for corner in choose_tiles(view, Blank(), TILES)[["x", "y"]].to_numpy().tolist()}
    assert (256, 256) in found
    assert (512, 256) not in found
    assert len(found) == 11
    lenient = TILES | {"quality": {f"max_{name}": 1.0}}
    assert len(choose_tiles(view, Blank(), lenient)) == 12


def test_blur_is_a_share_of_the_tissue(view):
    view.tissue[part(0, 0, 0.5)] = False
    view.sharpness[part(0, 0, 0.875)] = 0.3
    view.sharpness[~view.tissue] = np.nan  # 3/8 of the tile, but 3/4 of its tissue
    assert len(choose_tiles(view, Blank(), TILES)) == 11


def test_reasons_name_what_took_the_last_tiles(view):
    view.tissue[:] = False
    with pytest.raises(SlideError, match=r"^no tissue found$"):
        choose_tiles(view, Blank(), TILES)
    view.pen[:24] = True
    with pytest.raises(SlideError, match=r"no tissue found \(49% of the slide is inked\)"):
        choose_tiles(view, Blank(), TILES)
    view.pen[:] = False
    view.tissue[:4] = True
    with pytest.raises(SlideError, match="no tile is at least 50% tissue"):
        choose_tiles(view, Blank(), TILES)
    view.tissue[:] = True
    view.sharpness[: 2 * TILE] = 0.3
    view.pen[TILE:] = True
    with pytest.raises(SlideError, match=r"^all 12 tissue tiles are blurred \(8\) or inked \(4\)$"):
        choose_tiles(view, Blank(), TILES)
    view.sharpness[:] = 0.3
    with pytest.raises(SlideError, match=r"^all 12 tissue tiles are blurred \(12\)$"):
        choose_tiles(view, Blank(), TILES)

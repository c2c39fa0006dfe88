"""Tiles lie where the tissue is, in raster order, and bags are filled by the papers' rule."""

import numpy as np
import pytest

from histofuse.slides.quality import Survey
from histofuse.slides.reader import SlideError
from histofuse.slides.tiles import choose_tiles, repeat_index, spatial_index, tile_grid


def test_hand_case():
    mask = np.zeros((4, 6), bool)
    mask[:2, :2] = True  # the first tile is full
    mask[2:, 2] = True  # of the fifth, half
    coords, share = tile_grid(mask, 10.0, width=60, height=40, side=20, min_tissue=0.5)
    assert coords.dtype == np.int64
    assert coords.tolist() == [[0, 0], [20, 20]]
    assert share.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(("pixel", "side"), [(16.0, 224), (15.7, 224), (31.94, 449), (7.3, 100), (40.0, 33)])
def test_share_is_the_area_of_tissue(pixel, side):
    rng = np.random.default_rng(0)
    mask = np.kron(rng.random((12, 10)) < 0.5, np.ones((5, 5))).astype(bool)
    width, height = int(mask.shape[1] * pixel), int(mask.shape[0] * pixel)
    coords, share = tile_grid(mask, pixel, width, height, side, min_tissue=0.0)
    assert len(coords) == (width // side) * (height // side)
    # An independent count: the mask's value under every level-0 pixel's centre.
    for (x, y), value in list(zip(coords, share))[::7]:
        rows = ((y + np.arange(side) + 0.5) / pixel).astype(int)
        columns = ((x + np.arange(side) + 0.5) / pixel).astype(int)
        assert value == pytest.approx(mask[np.ix_(rows, columns)].mean(), abs=0.02)


def test_raster_order_inside_the_slide():
    coords, share = tile_grid(np.ones((30, 40), bool), 8.0, width=317, height=239, side=50, min_tissue=0.9)
    assert coords.tolist() == [[x, y] for y in range(0, 200, 50) for x in range(0, 300, 50)]
    assert share == pytest.approx(1.0)


def test_a_slide_smaller_than_a_tile_has_none():
    coords, share = tile_grid(np.ones((5, 5), bool), 8.0, width=40, height=40, side=50, min_tissue=0.1)
    assert coords.shape == (0, 2)
    assert share.shape == (0,)


def test_few_tiles_are_repeated_whole_then_by_the_first_remainder():
    assert repeat_index(3, 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert repeat_index(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_many_tiles_are_taken_at_an_even_stride():
    # j·10/4 = 0, 2.5, 5, 7.5, halves to the even number
    assert repeat_index(10, 4).tolist() == [0, 2, 5, 8]
    assert repeat_index(7, 5).tolist() == [0, 1, 3, 4, 6]


@pytest.mark.parametrize("n", [1, 2499, 2500, 2501, 4999, 5000, 12345, 99999])
def test_every_index_exists_and_none_is_lost_needlessly(n):
    index = repeat_index(n, 2500)
    assert index.shape == (2500,)
    assert index.min() == 0
    assert index.max() < n
    assert len(np.unique(index)) == min(n, 2500)


@pytest.mark.parametrize(("n", "bag"), [(0, 5), (5, 0)])
def test_nothing_cannot_fill_a_bag(n, bag):
    with pytest.raises(ValueError, match="cannot be filled"):
        repeat_index(n, bag)


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


# Spatial order


def neighbours(coords: np.ndarray, index: np.ndarray, side: int) -> float:
    """Mean distance in tissue between neighbours on the map, in tiles."""
    places = coords[index].reshape(side, side, 2).astype(float)
    steps = [np.linalg.norm(np.diff(places, axis=axis), axis=2).ravel() for axis in (0, 1)]
    return float(np.concatenate(steps).mean())


def round_piece(n: int) -> np.ndarray:
    """About `n` tiles of a round piece of tissue, in raster order."""
    radius = np.sqrt(n / np.pi)
    y, x = np.mgrid[: 2 * radius + 1, : 2 * radius + 1]
    inside = (x - radius) ** 2 + (y - radius) ** 2 <= radius**2
    return np.stack([x[inside], y[inside]], axis=1).astype(np.int64)


@pytest.mark.parametrize(("n", "factor"), [(40, 5), (300, 5), (1500, 2.5), (2500, 2.5), (6000, 3)])
def test_neighbours_on_the_map_are_neighbours_in_tissue(n, factor):
    coords = round_piece(n)
    spatial = neighbours(coords, spatial_index(coords, 2500), 50)
    assert spatial * factor < neighbours(coords, repeat_index(len(coords), 2500), 50)
    assert spatial < 5


@pytest.mark.parametrize("n", [1, 7, 300, 2499, 2500, 2501, 7000])
@pytest.mark.parametrize("bag", [1, 2500, 2000])
def test_every_tile_is_there_as_often_as_the_others(n, bag):
    coords = np.random.default_rng(n).permutation(np.stack(np.divmod(np.arange(n), 83), axis=1))
    index = spatial_index(coords, bag)
    assert index.dtype == np.int64
    assert index.shape == (bag,)
    counts = np.bincount(index, minlength=n)
    assert counts.max() - counts.min() <= 1
    assert (counts > 0).sum() == min(n, bag)


def test_the_map_does_not_depend_on_the_order_of_tiles():
    coords = round_piece(300)
    shuffled = np.random.default_rng(0).permutation(len(coords))
    np.testing.assert_array_equal(
        coords[spatial_index(coords, 400)], coords[shuffled][spatial_index(coords[shuffled], 400)]
    )


def test_a_map_by_hand():
    coords = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    assert spatial_index(coords, 4).tolist() == [0, 1, 2, 3]
    assert spatial_index(coords, 16).reshape(4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    # No square: a map 3 wide whose last row holds two.
    assert spatial_index(round_piece(9)[:5], 5).tolist() == [0, 1, 2, 3, 4]


def test_nothing_cannot_be_laid_out():
    with pytest.raises(ValueError, match="cannot be filled"):
        spatial_index(np.zeros((0, 2), np.int64), 4)

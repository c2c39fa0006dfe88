"""Tiles lie where the tissue is, in raster order, and bags are filled by the papers' rule."""

import numpy as np
import pytest

from histofuse.slides.tiles import repeat_index, tile_grid


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

"""Bags are filled by the papers' rule, or laid out as a map on which neighbours in tissue are neighbours."""

import numpy as np
import pytest

from histofuse.bags import repeat_index, spatial_index


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

"""Which of a slide's packed tiles a model is given."""

import numpy as np
import pytest
from tile_examples import tile_store

FEATURES = {"few": np.zeros((3, 2)), "many": np.arange(24_000.0).reshape(12_000, 2) / 1000}


def test_a_bag_is_no_larger_than_it_says(tmp_path):
    """A slide with more tiles gives tile round(j · n/bag) for place j, as slides encoded here are thinned."""
    store = tile_store(tmp_path, FEATURES, bag=2500)
    given = store.given("many")
    np.testing.assert_array_equal(given, np.rint(np.arange(2500) * 12_000 / 2500))
    np.testing.assert_array_equal(store.count("many"), np.ones(2500))
    np.testing.assert_array_equal(store.features("many"), store.tiles[3 + given])


@pytest.mark.parametrize("bag", [4, 5, 7, 11])
def test_a_bag_just_smaller_than_a_slide_holds_no_tile_twice(tmp_path, bag):
    store = tile_store(tmp_path, {"one": np.zeros((bag + 1, 2))}, bag=bag)
    assert len(store.given("one")) == store.count("one").sum() == bag


def test_without_a_bag_every_tile_counts_once(tmp_path):
    store = tile_store(tmp_path, FEATURES)
    np.testing.assert_array_equal(store.given("many"), np.arange(12_000))
    np.testing.assert_array_equal(store.count("many"), np.ones(12_000))

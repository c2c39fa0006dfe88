"""Walks between cell types: held-out ends, exact distances, and what is plotted of them."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from smoothing_examples import atlas

from histofuse.genomics.smoothing.interpolation import (
    distance_table,
    first_pairs,
    paths,
    relative_distance,
    straightness,
)
from histofuse.genomics.smoothing.mixup import mixed_profiles
from histofuse.io import InputError

CELLS = atlas()
PAIRS = [("neuron", "astrocyte"), ("microglia", "podocyte")]
WALKS = paths(CELLS, PAIRS, steps=5, cells_per_pair=8)
PROFILES = mixed_profiles(CELLS, WALKS.mixes, CELLS.genes)


def test_walks_lead_from_one_held_out_cell_to_another():
    assert WALKS.pairs == ["neuron → astrocyte", "microglia → podocyte"]
    assert WALKS.pair.tolist() == [0] * 8 + [1] * 8
    assert WALKS.weights.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert len(WALKS.mixes) == 80
    assert CELLS.held_out[WALKS.mixes.i].all()
    assert CELLS.held_out[WALKS.mixes.j].all()
    assert set(CELLS.labels[WALKS.mixes.i[:40]]) == {CELLS.classes.index("neuron")}
    assert set(CELLS.labels[WALKS.mixes.j[:40]]) == {CELLS.classes.index("astrocyte")}
    shares = CELLS.counts.toarray() / CELLS.library[:, None] * 1e4
    np.testing.assert_allclose(PROFILES[4], shares[WALKS.mixes.i[4]], rtol=1e-6)
    np.testing.assert_allclose(PROFILES[0], shares[WALKS.mixes.j[0]], rtol=1e-6)


def test_the_same_seed_walks_the_same_way_and_pairs_do_not_disturb_each_other():
    alone = paths(CELLS, PAIRS[1:], steps=5, cells_per_pair=8)
    np.testing.assert_array_equal(alone.mixes.i, WALKS.mixes.i[40:])
    np.testing.assert_array_equal(alone.mixes.j, WALKS.mixes.j[40:])
    assert not np.array_equal(paths(CELLS, PAIRS, 5, 8, seed=1).mixes.i, WALKS.mixes.i)


def test_expression_itself_is_straight():
    np.testing.assert_allclose(relative_distance(PROFILES, 5), np.tile(WALKS.weights, (16, 1)), atol=1e-5)
    table = straightness(WALKS, {"expression": PROFILES})
    assert table["pair"].tolist() == [*WALKS.pairs, "mean"]
    assert table["deviation"].max() < 1e-5


def test_distances_are_euclidean_or_cosine():
    values = np.random.default_rng(0).normal(size=(10, 4))
    euclidean, by_cosine = relative_distance(values, 5), relative_distance(values, 5, "cosine")
    for path, start in enumerate((0, 5)):
        for step in range(5):
            point, low, high = values[start + step], values[start], values[start + 4]
            expected = np.linalg.norm(point - low) / np.linalg.norm(high - low)
            assert euclidean[path, step] == pytest.approx(expected, rel=1e-12)
            assert by_cosine[path, step] == pytest.approx(cosine(point, low) / cosine(high, low), rel=1e-9, abs=1e-12)


def test_a_space_that_jumps_is_less_straight():
    labels = (np.tile(WALKS.weights, 16) > 0.5).astype(float)[:, None] * [[1.0, 0.0]]
    table = straightness(WALKS, {"expression": PROFILES, "jump": labels}).set_index(["space", "pair"])["deviation"]
    assert table["jump", "mean"] == pytest.approx((0.25 + 0.5 + 0.25) / 3)
    assert table["expression", "mean"] < 1e-5


def test_the_table_holds_what_is_drawn():
    bent = PROFILES.astype(float) ** 2
    table = distance_table(WALKS, {"raw": bent, "smoothed": PROFILES})
    assert table.columns.tolist() == ["pair", "space", "weight", "median", "low", "high"]
    assert len(table) == 2 * 2 * 5
    assert table["space"].unique().tolist() == ["raw", "smoothed"]
    distance = relative_distance(bent, 5)[WALKS.pair == 1]
    one = table[(table["space"] == "raw") & (table["pair"] == WALKS.pairs[1])]
    np.testing.assert_allclose(one["median"], np.median(distance, axis=0))
    np.testing.assert_allclose(one["high"], np.percentile(distance, 75, axis=0))
    assert (one["low"] <= one["median"]).all()


def test_walks_between_equal_points_are_left_out():
    values = PROFILES.copy()
    values[:5] = 1
    assert np.isnan(relative_distance(values, 5)[0]).all()
    assert distance_table(WALKS, {"raw": values}).notna().all().all()
    values[:40] = 1
    with pytest.raises(InputError, match="space raw: both ends of every walk neuron → astrocyte are the same point"):
        straightness(WALKS, {"raw": values})


def test_pairs_without_a_choice_share_no_class_while_that_is_possible():
    assert first_pairs(["a", "b", "c", "d"], 3) == [("a", "b"), ("c", "d"), ("a", "c")]
    assert first_pairs(["a", "b"]) == [("a", "b")]
    assert paths(CELLS, steps=3, cells_per_pair=2).pairs[0] == "astrocyte → microglia"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": [("neuron", "tree")]}, "neuron, tree: tree is not a class of the atlas: astrocyte, microglia"),
        ({"pairs": [("neuron", "neuron")]}, "neuron, neuron: two are needed"),
        ({"steps": 1}, "1 steps; needed are 1, 1 and 2"),
        ({"cells_per_pair": 0}, "0 walks"),
    ],
)
def test_impossible_walks_are_named(options, message):
    with pytest.raises(InputError, match=message):
        paths(CELLS, **options)


def test_spaces_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="space raw has 79 rows, the walks have 80"):
        distance_table(WALKS, {"raw": PROFILES[:-1]})
    with pytest.raises(InputError, match="metric 'manhattan' is not one of euclidean, cosine"):
        relative_distance(PROFILES, 5, "manhattan")
    with pytest.raises(InputError, match="are no walks of 7 steps"):
        relative_distance(PROFILES, 7)

"""Groups of genes by table and by slices."""

import pytest

from histofuse.io import InputError
from histofuse.models.gene_groups import gene_groups


def test_each_table_is_a_group_and_bags_are_none():
    shapes = {"tiles": (1024,), "kinases": (12,), "tiles_10x": (1024,), "cytokines": (7,), "regions": (3, 8, 8)}
    assert gene_groups(shapes) == [("kinases", 0, 12), ("cytokines", 0, 7)]


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([100, 100, 100, 131], [(0, 100), (100, 200), (200, 300), (300, 431)]),
        (4, [(0, 107), (107, 214), (214, 321), (321, 431)]),
        (1, [(0, 431)]),
    ],
)
def test_slices_follow_each_other_to_the_last_column(slices, expected):
    groups = gene_groups({"tiles": (8,), "expression": (431,)}, slices)
    assert groups == [("expression", start, stop) for start, stop in expected]


@pytest.mark.parametrize(
    ("shapes", "slices", "message"),
    [
        ({"tiles": (8,)}, None, "a table per group of genes.*there are tiles"),
        ({"a": (4,), "b": (4,)}, 2, "slices cut one table; there are a, b"),
        ({"a": (4,)}, 5, "a has 4 columns, which cannot be cut into 5 slices"),
        ({"a": (4,)}, 0, "into 0 slices"),
        ({"a": (4,)}, [2, 3], "into slices of 2, 3"),
        ({"a": (4,)}, [5, -1], "into slices of 5, -1"),
        ({"a": (4,)}, [], "a has 4 columns"),
    ],
)
def test_groups_that_cannot_be_made_are_refused(shapes, slices, message):
    with pytest.raises(InputError, match=message):
        gene_groups(shapes, slices)

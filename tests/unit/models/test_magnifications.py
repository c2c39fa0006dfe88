"""Bags laid out in maps, and one prediction of two magnifications."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.magnifications import bag_widths, check_rule, combine, on_map, places_of, side_of


def test_confident_takes_the_logits_with_the_larger_top_probability_of_each_sample():
    """Top probabilities 0.90 against 0.73, 0.5 against 0.88, and equal ones."""
    first = torch.tensor([[2.2, 0.0], [0.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[11.0, 10.0], [-2.0, 0.0], [0.0, 1.0]])
    expected = torch.stack([first[0], second[1], first[2]])
    torch.testing.assert_close(combine([first, second], "confident"), expected)
    torch.testing.assert_close(combine([first, second], "mean"), (first + second) / 2)


def test_gradient_goes_to_the_logits_that_were_taken():
    first, second = torch.tensor([[3.0, 0.0]], requires_grad=True), torch.tensor([[1.0, 0.0]], requires_grad=True)
    combine([first, second], "confident").sum().backward()
    assert first.grad.tolist() == [[1, 1]]
    assert second.grad.tolist() == [[0, 0]]


def test_distinct_tiles_are_gathered_at_their_places():
    values = torch.arange(12.0).view(2, 3, 2)
    place = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    laid_out = on_map(values, place)
    for sample in range(2):
        torch.testing.assert_close(laid_out[sample], values[sample, place[sample]])


def test_bags_and_maps_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="is missing; the model reads tiles and tiles_10x"):
        bag_widths({"tiles": (8,)})
    with pytest.raises(InputError, match="tiles: the model reads it as a map; give it `order: raster` and `bag: 36`"):
        places_of({}, "tiles", 36)
    with pytest.raises(InputError, match="bag: 36 places, but the bag tiles holds 49: give both the same number"):
        places_of({"tiles_place": torch.zeros(1, 49)}, "tiles", 36)
    with pytest.raises(InputError, match="bag: 2400 is no square"):
        side_of(2400)


def test_rules_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="combine: 'max' is not one of confident, mean"):
        check_rule("max", 4)
    with pytest.raises(InputError, match="one output has no largest probability"):
        check_rule("confident", 1)
    check_rule("mean", 1)

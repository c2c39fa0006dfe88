"""Consistency between magnifications against maps flattened whole, hand-worked cases, and patients permuted."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.consistency import check_form, consistency


def maps_of(seed, patients=4, heads=5, places=9, keys=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(patients, heads, places, keys, generator=generator), dim=-1)


def of(first, second, form="gram"):
    return consistency(lambda heads: first[:, heads], lambda heads: second[:, heads], first.shape[1], form)


def row_normalised(gram):
    return gram / gram.norm(dim=1, keepdim=True)


def gram_flattened(first, second):
    one, other = ((maps.double() - 1 / maps.shape[-1]).flatten(1) for maps in (first, second))
    difference = row_normalised(one @ one.T) - row_normalised(other @ other.T)
    return difference.square().sum() / len(first)


def variance_flattened(first, second):
    diagonal = row_normalised(first.double().flatten(1) @ second.double().flatten(1).T).diagonal()
    return (diagonal - diagonal.mean()).square().sum() / (len(first) - 1)


@pytest.mark.parametrize(("form", "flattened"), [("gram", gram_flattened), ("variance", variance_flattened)])
def test_heads_a_few_at_a_time_are_the_same_as_maps_flattened_whole(form, flattened):
    first, second = maps_of(0).requires_grad_(), maps_of(1).requires_grad_()
    value = of(first, second, form)
    expected = flattened(first, second)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-9)
    gradients = torch.autograd.grad(value, (first, second))
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, (first, second)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_published_form_by_hand():
    """Q = [[1·4 + 0·3, 1·0 + 0·5], [2·4 + 1·3, 5]]: the diagonal of rows of length 1 is 1 and 5 / √146."""
    first = torch.tensor([[1.0, 0.0], [2.0, 1.0]]).view(2, 1, 1, 2)
    second = torch.tensor([[4.0, 3.0], [0.0, 5.0]]).view(2, 1, 1, 2)
    assert of(first, second, "variance").item() == pytest.approx((1 - 5 / 146**0.5) ** 2 / 2, rel=1e-6)


def test_two_patients_by_hand():
    """Less the uniform half, maps are a(1, −1) with a = 0.2, 0.1 at the first magnification, 0.3, −0.1 at the second.

    Rows of R₁ are (2, 1) / √5 twice, of R₂ ±(3, −1) / √10; |difference|² is 2 ∓ 10 / √50, in all 4, for 2 patients 2.
    """
    first = torch.tensor([[0.7, 0.3], [0.6, 0.4]]).view(2, 1, 1, 2)
    second = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).view(2, 1, 1, 2)
    torch.testing.assert_close(of(first, second), torch.tensor(2.0))


def test_equal_maps_agree_and_patients_may_come_in_any_order():
    first, second = maps_of(0), maps_of(1)
    assert of(first, first).item() == 0
    assert of(first, second).item() > 0.01
    order = torch.tensor([2, 0, 3, 1])
    for form in ("gram", "variance"):
        torch.testing.assert_close(of(first[order], second[order], form), of(first, second, form))
    assert not torch.isclose(of(first[order], second), of(first, second), rtol=0.01)


def test_uniform_attention_says_nothing_and_breaks_nothing():
    even = torch.full((3, 2, 9, 4), 0.25, requires_grad=True)
    value = of(even, maps_of(1, 3, 2))
    value.backward()
    assert value.isfinite()
    assert even.grad.isfinite().all()


def test_the_magnifications_may_have_maps_of_different_sizes():
    assert of(maps_of(0, places=9, keys=4), maps_of(1, places=16, keys=9)).isfinite()


def test_a_single_patient_has_nothing_to_agree_with():
    first = maps_of(0, patients=1).requires_grad_()
    for form in ("gram", "variance"):
        value = of(first, maps_of(1, patients=1), form)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6)


def test_maps_are_made_of_a_few_heads_at_a_time_and_again_in_the_backward_pass():
    first, asked = maps_of(0).requires_grad_(), []

    def maps(heads):
        asked.append((heads.start, heads.stop))
        return first[:, heads]

    consistency(maps, maps, 5).backward()
    assert sorted(set(asked)) == [(0, 4), (4, 5)]
    assert len(asked) == 8


def test_unknown_forms_are_refused():
    check_form(None)
    with pytest.raises(InputError, match="consistency: 'cosine' is not one of gram, variance, nor null"):
        check_form("cosine")

"""Attention with a looked-up bias against attention written out; both ways to the table's gradient."""

import pytest
import torch
from torch.nn import functional as F

from histofuse.models import biased_attention as module
from histofuse.models.biased_attention import biased_attention, position_bias


@pytest.fixture
def operands():
    """Three maps of 4 × 4 places, 5 keys, 3 channels, a table of 9 × 9."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    at = (2 * torch.rand(3, 4, 5, 2, generator=generator, dtype=torch.float64) - 1).requires_grad_()
    return normal(3, 16, 3), normal(3, 5, 3), normal(3, 5, 3), normal(9, 9), at


def by_hand(table, at):
    """Bilinear interpolation, one pair at a time."""
    rows = []
    for one in at:
        for y_line in one:
            for x_line in one:
                for (x, _), (_, y) in zip(x_line, y_line):
                    u, v = (x + 1) * 4, (y + 1) * 4
                    i, j = int(v), int(u)
                    top = table[i, j] * (j + 1 - u) + table[i, j + 1] * (u - j)
                    rows.append(
                        top * (i + 1 - v) + (table[i + 1, j] * (j + 1 - u) + table[i + 1, j + 1] * (u - j)) * (v - i)
                    )
    return torch.stack(rows).reshape(len(at), 16, 5)


def gradients(value, operands):
    return torch.autograd.grad(value.square().sum(), operands)


def test_bias_is_bilinear_in_the_table(operands):
    *_, table, at = operands
    bias = position_bias(table, at)
    expected = by_hand(table, at)
    torch.testing.assert_close(bias, expected)
    torch.testing.assert_close(gradients(bias, (table, at)), gradients(expected, (table, at)))


@pytest.mark.parametrize("pairs", [1, 2 * 16 * 5, 2**20], ids=["a map at a time", "two", "all"])
def test_attention_and_its_gradients_are_those_of_attention_written_out(operands, pairs, monkeypatch):
    monkeypatch.setattr(module, "PAIRS", pairs)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    query, keys, values, table, at = operands
    out = biased_attention(*operands)
    expected = torch.softmax(query @ keys.transpose(1, 2) + position_bias(table, at), dim=-1) @ values
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        F.scaled_dot_product_attention(query, keys, values, position_bias(table, at), scale=1.0), out
    )
    torch.testing.assert_close(gradients(out, operands), gradients(expected, operands))


def test_dropout_drops_its_share_and_scales_the_rest():
    """With even weights and values of 1 an output says how many of its 1,000 weights were kept."""
    zeros = torch.zeros(1, 400, 2), torch.zeros(1, 1000, 2)
    torch.manual_seed(0)
    table, at = torch.zeros(3, 3), torch.zeros(1, 20, 1000, 2)
    kept = biased_attention(*zeros, torch.ones(1, 1000, 2), table, at, 0.1)[0, :, 0]
    assert kept.mean().item() == pytest.approx(1, abs=4 * (0.1 / 0.9 / 400_000) ** 0.5)
    assert kept.std().item() == pytest.approx((0.1 / 0.9 / 1000) ** 0.5, rel=0.2)


def test_gradients_with_dropout_agree_with_finite_differences(operands):
    def with_the_same_draws(*operands):
        torch.manual_seed(3)
        return biased_attention(*operands, 0.3)

    assert (with_the_same_draws(*operands) - biased_attention(*operands)).abs().max() > 0.1
    assert torch.autograd.gradcheck(with_the_same_draws, operands)


def test_dense_backward_of_the_lookup_is_the_same(operands):
    """The one for GPUs, where the other has no fixed order; a coordinate on the table's edge is in it."""
    *_, table, at = (x.detach() for x in operands)
    at[0, 0, 0] = torch.tensor([1.0, -1.0])
    gradient = torch.randn(3, 16, 5, dtype=torch.float64)
    of_table, of_at = module.look_up_backward(gradient, table, at)
    dense_table, dense_at = module.look_up_backward_dense(gradient, table, at)
    torch.testing.assert_close(dense_table, of_table)
    on_edge = at.abs() == 1
    torch.testing.assert_close(dense_at[~on_edge], of_at[~on_edge])

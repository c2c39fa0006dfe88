"""Attention on a square map whose position bias is looked up in a table, a few maps at a time and without a mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PAIRS = 2**20  # of a place and a key at a time on a CPU, so that intermediates stay in its cache
PAIRS_GPU = 2**25


def biased_attention(
    query: Tensor, keys: Tensor, values: Tensor, table: Tensor, at: Tensor, dropout: float = 0.0
) -> Tensor:
    """softmax(q · k + bias) of values.

    The weights alone are kept for the backward pass; the pairs' coordinates and biases are made anew.

    Args:
        query: [map, line · line, channel], row by row. keys, values: [map, key, channel].
        table: biases on a square lattice [y, x].
        at: [map, line, key, (x, y)] within ±1, whose corners are the table's: a place's column gives the x of the
            place and the key, its row the y.
        dropout: share of the weights set to zero (to 1/65,536), the others scaled up.
    Returns: [map, line · line, channel].
    """
    return _Attention.apply(query, keys, values, table, at, dropout)


def position_bias(table: Tensor, at: Tensor) -> Tensor:
    """The biases that `biased_attention` adds, [map, line · line, key]."""
    return _Bias.apply(table, at)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, keys, values, table, at, dropout) -> Tensor:
        out = torch.empty_like(query)
        weights = query.new_empty(*query.shape[:2], keys.shape[1])
        threshold = round(65_536 * dropout)
        ctx.scale = 65_536 / (65_536 - threshold)
        for part in _parts(at):
            scores = look_up(table, at[part]).baddbmm_(query[part], keys[part].transpose(1, 2))
            torch.softmax(scores, -1, out=weights[part])
            if threshold:
                weights[part] = _negate_some(weights[part], threshold)
            torch.bmm(weights[part].relu(), values[part], out=out[part])
        ctx.save_for_backward(query, keys, values, table, at, weights)
        return out.mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, keys, values, table, at, weights = ctx.saved_tensors
        gradient = gradient * ctx.scale
        of_query, of_keys, of_values = torch.empty_like(query), torch.empty_like(keys), torch.empty_like(values)
        of_table, of_at = torch.zeros_like(table), torch.empty_like(at)
        for part in _parts(at):
            kept = weights[part].relu()
            torch.bmm(kept.transpose(1, 2), gradient[part], out=of_values[part])
            of_kept = torch.bmm(gradient[part], values[part].transpose(1, 2))
            of_weights = torch.ops.aten.threshold_backward(of_kept, kept, 0)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights[part].abs(), -1, weights.dtype)
            torch.bmm(of_scores, keys[part], out=of_query[part])
            torch.bmm(of_scores.transpose(1, 2), query[part], out=of_keys[part])
            of_table_part, of_at[part] = look_up_backward(of_scores, table, at[part])
            of_table += of_table_part
        return of_query, of_keys, of_values, of_table, of_at, None


class _Bias(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, at) -> Tensor:
        ctx.save_for_backward(table, at)
        return torch.cat([look_up(table, at[part]) for part in _parts(at)])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        table, at = ctx.saved_tensors
        parts = [look_up_backward(gradient[part].contiguous(), table, at[part]) for part in _parts(at)]
        return sum(of_table for of_table, _ in parts), torch.cat([of_at for _, of_at in parts])


def _parts(at: Tensor) -> list[slice]:
    """Slices of the maps that are worked on together."""
    maps, lines, keys, _ = at.shape
    many = (PAIRS_GPU if at.is_cuda else PAIRS) // (lines**2 * keys)
    step = max(1, many, 1 if at.is_cuda else torch.get_num_threads())
    return [slice(start, start + step) for start in range(0, maps, step)]


def _negate_some(weights: Tensor, threshold: int) -> Tensor:
    """Dropout that is kept in the sign: threshold / 65,536 of the weights, drawn at random, negated.

    16 bits of each drawn number decide one weight, four times as fast on a CPU as a number each.
    """
    bits = torch.empty(-(-weights.numel() // 4), dtype=torch.int64, device=weights.device).random_(-(2**63), None)
    drop = bits.view(torch.int16)[: weights.numel()].view(weights.shape) < threshold - 2**15
    return torch.where(drop, -weights, weights)


def look_up(table: Tensor, at: Tensor) -> Tensor:
    """Bilinear: [y, x] and [map, line, key, (x, y)] → [map, line · line, key]."""
    return F.grid_sample(_per_map(table, at), _pairs(at), padding_mode="border", align_corners=True).squeeze(1)


def look_up_backward(gradient: Tensor, table: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to the table and to the coordinates."""
    if at.is_cuda:  # grid_sample's own backward adds up in an order of chance there
        return look_up_backward_dense(gradient, table, at)
    lines = at.shape[1]
    of_table, of_pairs = torch.ops.aten.grid_sampler_2d_backward(
        gradient.unsqueeze(1), _per_map(table, at), _pairs(at), 0, 1, True, [True, True]
    )
    of_pairs = of_pairs.unflatten(1, (lines, lines))
    return of_table.sum((0, 1)), torch.stack([of_pairs.sum(1)[..., 0], of_pairs.sum(2)[..., 1]], dim=-1)


def look_up_backward_dense(gradient: Tensor, table: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The same by matrix products, whose order is fixed, with the interpolation's weights as dense matrices."""
    gradient = gradient.unflatten(1, (at.shape[1],) * 2).permute(0, 3, 1, 2)  # [map, key, row, column]
    last = len(table) - 1
    position = (at.permute(3, 0, 2, 1) + 1) * (last / 2)  # [(x, y), map, key, line]
    weight_x, weight_y = torch.relu(1 - (position.unsqueeze(-1) - torch.arange(last + 1, device=at.device)).abs())
    by_row, by_column = gradient @ weight_x, gradient.transpose(2, 3) @ weight_y
    of_table = weight_y.flatten(0, 2).T @ by_row.flatten(0, 2)
    below = position.floor().clamp(0, last - 1).long().unsqueeze(-1)
    slopes = [
        (of.gather(-1, cell + 1) - of.gather(-1, cell)).squeeze(-1) * (last / 2)
        for of, cell in zip((by_column @ table, by_row @ table.T), below)
    ]
    return of_table, torch.stack(slopes, dim=-1).transpose(1, 2)


def _per_map(table: Tensor, at: Tensor) -> Tensor:
    return table.expand(len(at), 1, -1, -1)


def _pairs(at: Tensor) -> Tensor:
    """[map, line, key, (x, y)] → [map, line · line, key, (x, y)]; as a sum, which is written in one fast pass."""
    x, y = at * at.new_tensor([1, 0]), at * at.new_tensor([0, 1])
    return (x.flatten(2).unsqueeze(1) + y.flatten(2).unsqueeze(2)).view(len(at), -1, *at.shape[2:])

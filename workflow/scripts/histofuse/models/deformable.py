"""Deformable cross-attention on a square map (KS-Fusion, after DAT, Xia et al. 2022), its position bias by table."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histofuse.io import InputError

LATTICE = 257  # points a side of the table of position biases


class Geometry(NamedTuple):
    """Where each head looks, in cells of the key grid, x before y; both [batch, heads, keys, 2] and float32."""

    offsets: Tensor
    points: Tensor


class DeformableAttention(nn.Module):
    """Each place of a map attends to a coarse grid of keys, read from the map at points that shift with the query.

    Every head works on its own width / heads channels. Its queries predict, for each of K × K reference points, an
    offset of at most `stride` key-grid cells (a depthwise convolution, GELU, a linear map to two numbers, tanh); the
    keys' map is read there bilinearly, zero outside. Attention adds to q · k / √head_width a bias, an MLP of the
    difference of the places in sign · ln(1 + |·|).

    Two things are exact rearrangements. Queries, keys and values of a head are linear in width / heads numbers, fewer
    than head_width, so attention runs in these. The query's projection is folded into the offsets' convolution.
    One is an approximation: the MLP is evaluated on a lattice of 257² points and looked up bilinearly in it, instead
    of once for each pair of a place and a key; gradients reach the MLP through the table, offsets through the lookup.

    Args:
        width: channels of the map. heads: groups of channels. head_width: width of a head's queries and keys.
        side: places along a side of the map.
        stride: of the offsets' convolution (kernel stride + 2, padding 1), which leaves side // stride keys a side;
            None takes 4 (50 → 12 keys) and, for maps under 12 places a side, 2.
        dropout: of the attention weights.
        align_corners: read the map where the reference points lie, corners on corners. False as KS-Fusion was
            published: points are placed with corners on corners and read without, so a corner key weighs a quarter.
    Raises InputError for a map of fewer than 2 × 2 keys.
    """

    def __init__(
        self,
        width: int = 128,
        heads: int = 8,
        head_width: int = 64,
        side: int = 50,
        stride: int | None = None,
        dropout: float = 0.1,
        align_corners: bool = True,
    ):
        super().__init__()
        stride = stride or (4 if side >= 12 else 2)
        if side < 2 * stride:
            raise InputError(
                f"params: a map of {side} × {side} places is too small for deformable attention with stride {stride}: "
                f"take at least {2 * stride} a side (`bag: {4 * stride**2}`)"
            )
        self.heads, self.side, self.stride, self.keys = heads, side, stride, side // stride
        self.head_width, self.dropout, self.align_corners = head_width, dropout, align_corners
        channels = width // heads
        self.query, self.key, self.value = (
            nn.Parameter(torch.empty(heads, head_width, channels).uniform_(-1, 1) / math.sqrt(channels)) for _ in "qkv"
        )
        self.depthwise = nn.Conv2d(head_width, head_width, stride + 2, stride, 1, groups=head_width)
        self.to_offset = nn.Linear(head_width, 2, bias=False)
        self.bias = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        self.out = nn.Linear(heads * head_width, width)
        lines = torch.arange(self.keys, dtype=torch.float32)
        reference = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), dim=-1).reshape(-1, 2)
        self.register_buffer("reference", reference, persistent=False)
        self.register_buffer("places", torch.linspace(-1, 1, side), persistent=False)

    def forward(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Geometry]:
        """[batch, place, width] twice, row by row → [batch, place, width] and where the keys were read."""
        geometry = self.geometry(query)
        read = self._read(keys, geometry)
        mixed = F.scaled_dot_product_attention(
            self._by_head(query),
            self._keys(read),
            read,
            attn_mask=self.position_bias(geometry).to(read.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.head_width**-0.5,
        )
        out = self.out.weight.unflatten(1, (self.heads, self.head_width))
        weight = torch.einsum("ohd,hdc->ohc", out, self.value).flatten(1)
        return F.linear(mixed.transpose(1, 2).flatten(2), weight, self.out.bias), geometry

    def attention(self, query: Tensor, keys: Tensor, heads: slice = slice(None)) -> Tensor:
        """[batch, heads, place, key], before dropout; each row sums to 1. A few `heads` at a time save memory."""
        geometry = self.geometry(query)
        read = self._read(keys, geometry)
        similarity = self._by_head(query)[:, heads] @ self._keys(read)[:, heads].transpose(2, 3)
        geometry = Geometry(*(of_geometry[:, heads] for of_geometry in geometry))
        return torch.softmax(similarity.float() / self.head_width**0.5 + self.position_bias(geometry), dim=-1)

    def geometry(self, query: Tensor) -> Geometry:
        """The offsets that the queries [batch, place, width] ask for, and the points they lead to."""
        with torch.autocast(query.device.type, enabled=False):
            weight = torch.einsum("dkl,hdc->hdckl", self.depthwise.weight.squeeze(1), self.query).flatten(0, 1)
            query = query.float().transpose(1, 2).unflatten(2, (self.side, self.side))
            bias = self.depthwise.bias.repeat(self.heads)
            hidden = F.gelu(F.conv2d(query, weight, bias, self.stride, 1, groups=self.heads))
            hidden = hidden.flatten(2).unflatten(1, (self.heads, self.head_width)).transpose(2, 3)
            offsets = self.stride * torch.tanh(self.to_offset(hidden))
        return Geometry(offsets, self.reference + offsets)

    def position_bias(self, geometry: Geometry) -> Tensor:
        """[batch, heads, place, key] of the table, float32."""
        with torch.autocast(geometry.points.device.type, enabled=False):
            reach = math.log1p(2 + 2 * self.stride / (self.keys - 1))
            lines = torch.linspace(-reach, reach, LATTICE, device=geometry.points.device)
            lattice = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), dim=-1)
            table = self.bias(lattice).squeeze(-1)
            difference = self.places[:, None, None] - self._normalised(geometry).flatten(0, 1).unsqueeze(1)
            at = torch.sign(difference) * torch.log1p(difference.abs()) / reach
            return _Lookup.apply(table, at).unflatten(0, geometry.points.shape[:2])

    def _normalised(self, geometry: Geometry) -> Tensor:
        return 2 * geometry.points / (self.keys - 1) - 1

    def _by_head(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _keys(self, read: Tensor) -> Tensor:
        """Rows that dot a head's channels of the query as its projected key dots its projected query."""
        return read @ torch.einsum("hdi,hdj->hij", self.key, self.query)

    def _read(self, keys: Tensor, geometry: Geometry) -> Tensor:
        """[batch, heads, key, width / heads], bilinearly at the points."""
        maps = self._by_head(keys).transpose(2, 3).unflatten(3, (self.side, self.side)).flatten(0, 1)
        grid = self._normalised(geometry).flatten(0, 1).unsqueeze(1)
        read = F.grid_sample(maps.float(), grid, align_corners=self.align_corners).squeeze(2)
        return read.unflatten(0, geometry.points.shape[:2]).transpose(2, 3).to(keys.dtype)


class _Lookup(torch.autograd.Function):
    """table [y, x] of a square and coordinates [map, line, key, (x, y)] in ±1 → [map, line · line, key], bilinear.

    A place's column gives x and its row y, so the coordinates of all pairs follow from those of the lines; they are
    made anew in the backward pass, a few maps at a time, and never kept.
    """

    MAPS = 8

    @staticmethod
    def pairs(at: Tensor) -> Tensor:
        """[map, line, key, 2] → [map, line · line, key, 2]."""
        lines = at.shape[1]
        x = at[:, None, :, :, 0].expand(-1, lines, -1, -1)
        y = at[:, :, None, :, 1].expand(-1, -1, lines, -1)
        return torch.stack([x, y], dim=-1).flatten(1, 2)

    @staticmethod
    def forward(ctx, table: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(table, at)
        bias = [
            F.grid_sample(
                table.expand(len(part), 1, -1, -1), _Lookup.pairs(part), padding_mode="border", align_corners=True
            ).squeeze(1)
            for part in at.split(_Lookup.MAPS)
        ]
        return torch.cat(bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        table, at = ctx.saved_tensors
        of_table, of_at, lines = torch.zeros_like(table), [], at.shape[1]
        for part, grad in zip(at.split(_Lookup.MAPS), gradient.split(_Lookup.MAPS), strict=True):
            grad_table, grad_pairs = torch.ops.aten.grid_sampler_2d_backward(
                grad.unsqueeze(1), table.expand(len(part), 1, -1, -1), _Lookup.pairs(part), 0, 1, True, [True, True]
            )
            of_table += grad_table.sum((0, 1))
            grad_pairs = grad_pairs.unflatten(1, (lines, lines))
            of_at.append(torch.stack([grad_pairs[..., 0].sum(1), grad_pairs[..., 1].sum(2)], dim=-1))
        return of_table, torch.cat(of_at)

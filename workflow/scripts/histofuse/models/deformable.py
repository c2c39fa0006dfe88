"""Deformable cross-attention on a square map (KS-Fusion, after DAT, Xia et al. 2022), its position bias by table."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histofuse.io import InputError
from histofuse.models.biased_attention import biased_attention, position_bias

LATTICE, LATTICE_SMALL = 257, 129  # points a side of the table of position biases; the latter for small maps


class Geometry(NamedTuple):
    """Where each head looks, in cells of the key grid, x before y; both [batch, heads, keys, 2] and float32."""

    offsets: Tensor
    points: Tensor


class Points(NamedTuple):
    """What attention reads of a map.

    at: [batch, head, point, 2], column and row in places of the map, 0 the middle of the first; a point may lie off
    the map, whose rows and columns end at side − 1. attention: [batch, head, point], the mean over all queries of
    what the point gets; it sums to 1 over the points of a head.
    """

    at: Tensor
    attention: Tensor


class DeformableAttention(nn.Module):
    """Each place of a map attends to a coarse grid of keys, read from the map at points that shift with the query.

    Every head works on its own width / heads channels. Its queries predict, for each of K × K reference points, an
    offset of at most `stride` key-grid cells (a depthwise convolution, GELU, a linear map to two numbers, tanh); the
    keys' map is read there bilinearly, zero outside. Attention adds to q · k / √head_width a bias, an MLP of the
    difference of the places in sign · ln(1 + |·|).

    Two things are exact rearrangements. Queries, keys and values of a head are linear in width / heads numbers, fewer
    than head_width, so attention runs in these. The query's projection is folded into the offsets' convolution.
    One is an approximation: the MLP is evaluated on a lattice of 257² points (129² for maps under 12 places a side) and
    looked up bilinearly, instead of once for each pair of a place and a key; gradients reach the MLP through the table,
    offsets through the lookup.
    Its ReLUs switch at the lattice's points, so the MLP's own gradient is the least exact: to some per cent of its
    length where what arrives has no pattern in space, to a thousandth where it varies as the bias does.

    Args:
        width: channels of the map. heads: groups of channels. head_width: width of a head's queries and keys.
        side: places along a side of the map.
        stride: of the offsets' convolution (kernel stride + 2, padding 1), which leaves side // stride keys a side;
            None takes 4 (50 → 12 keys) and, for maps under 12 places a side, 2.
        dropout: of the attention weights.
        align_corners: read the map where the reference points lie, corners on corners. False as KS-Fusion was
            published: points are placed with corners on corners and read without, so a corner key weighs a quarter.
    Raises InputError for a map of fewer than 2 × 2 keys, and for heads that do not divide the width.
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
        small = side < 12
        stride = stride or (2 if small else 4)
        self.lattice = LATTICE_SMALL if small else LATTICE
        if side < 2 * stride:
            raise InputError(
                f"params: a map of {side} × {side} places is too small for deformable attention with stride {stride}: "
                f"take at least {2 * stride} a side (`bag: {4 * stride**2}`)"
            )
        self.heads, self.side, self.stride, self.keys = heads, side, stride, side // stride
        self.head_width, self.dropout, self.align_corners = head_width, dropout, align_corners
        if width % heads:
            raise InputError(f"params: heads: {heads} do not divide the model's width of {width}")
        channels = width // heads
        self.query, self.key, self.value = (
            nn.Parameter(torch.empty(heads, head_width, channels).uniform_(-1, 1) / math.sqrt(channels)) for _ in "qkv"
        )
        self.depthwise = nn.Conv2d(head_width, head_width, stride + 2, stride, 1, groups=head_width)
        self.to_offset = nn.Linear(head_width, 2, bias=False)
        self.bias = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        self.out = nn.Linear(heads * head_width, width)
        self.reach = math.log1p(2 + 2 * stride / (self.keys - 1))
        lines = torch.arange(self.keys, dtype=torch.float32)
        reference = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), dim=-1).reshape(-1, 2)
        self.register_buffer("reference", reference, persistent=False)
        self.register_buffer("places", torch.linspace(-1, 1, side), persistent=False)

    def forward(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Geometry]:
        """[batch, place, width] twice, row by row → [batch, place, width] and where the keys were read."""
        geometry = self.geometry(query)
        with torch.autocast(query.device.type, enabled=False):
            read = self._read(keys, geometry)
            operands = self._by_head(query), self._keys(read), read
            maps = (operand.flatten(0, 1) for operand in operands)
            dropout = self.dropout if self.training else 0.0
            mixed = biased_attention(*maps, self._table(), self._at(geometry), dropout).to(query.dtype)
        mixed = mixed.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        of_head = self.out.weight.unflatten(1, (self.heads, self.head_width))
        weight = torch.einsum("ohd,hdc->ohc", of_head, self.value).flatten(1)
        return F.linear(mixed, weight, self.out.bias), geometry

    def attention(self, query: Tensor, keys: Tensor, heads: slice = slice(None)) -> Tensor:
        """[batch, heads, place, key], before dropout, in float32. A few `heads` at a time save memory."""
        geometry = self.geometry(query)
        with torch.autocast(query.device.type, enabled=False):
            of_keys = self._keys(self._read(keys, geometry))[:, heads]
            similarity = self._by_head(query)[:, heads] @ of_keys.transpose(2, 3)
            geometry = Geometry(*(of_geometry[:, heads] for of_geometry in geometry))
            return torch.softmax(similarity + self.position_bias(geometry), dim=-1)

    def position_bias(self, geometry: Geometry) -> Tensor:
        """[batch, heads, place, key], looked up in the table."""
        return position_bias(self._table(), self._at(geometry)).unflatten(0, geometry.points.shape[:2])

    @torch.no_grad()
    def sampled(self, query: Tensor, keys: Tensor) -> Points:
        """Where the keys' map is read, and how much attention it gets there."""
        attention = [self.attention(*one).mean(2) for one in zip(query.split(1), keys.split(1))]
        return Points(self.on_map(self.geometry(query).points), torch.cat(attention))

    @torch.no_grad()
    def received(self, query: Tensor, keys: Tensor) -> Tensor:
        """[batch, place], the share of attention that each place of the map gets; each row sums to 1.

        What a key gets, averaged over queries and heads, is dealt out to the four places that it is read from in the
        shares it is read with. What goes to points off the map, where there is nothing to read, is left out; should all
        of them lie there, each place has the same share.
        """
        places, shares = self.read_shares(self.geometry(query).points)
        dealt = (self.sampled(query, keys).attention.unsqueeze(-1) * shares).flatten(1)
        received = dealt.new_zeros(query.shape[:2]).scatter_add_(1, places.flatten(1), dealt)
        total = received.sum(1, keepdim=True)
        return torch.where(total > 0, received / total, 1 / received.shape[1])

    def geometry(self, query: Tensor) -> Geometry:
        """The offsets that the queries [batch, place, width] ask for, and the points they lead to."""
        with torch.autocast(query.device.type, enabled=False):
            weight = torch.einsum("dkl,hdc->hdckl", self.depthwise.weight.squeeze(1), self.query).flatten(0, 1)
            query = full(query).transpose(1, 2).unflatten(2, (self.side, self.side))
            bias = self.depthwise.bias.repeat(self.heads)
            hidden = F.gelu(F.conv2d(query, weight, bias, self.stride, 1, groups=self.heads))
            hidden = hidden.flatten(2).unflatten(1, (self.heads, self.head_width)).transpose(2, 3)
            offsets = self.stride * torch.tanh(self.to_offset(hidden))
        return Geometry(offsets, self.reference + offsets)

    def on_map(self, points: Tensor) -> Tensor:
        """Points in cells of the key grid → in places of the map; 0 is the middle of the first."""
        if self.align_corners:
            return points * ((self.side - 1) / (self.keys - 1))
        return points * (self.side / (self.keys - 1)) - 0.5

    def read_shares(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Of each point the four places around it and the bilinear weights they are read with, both [..., 4]."""
        at = self.on_map(points)
        below = at.detach().floor()
        x, y = (at - below).unbind(-1)
        weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=-1)
        corner = below.unsqueeze(-2) + below.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
        inside = ((corner >= 0) & (corner < self.side)).all(-1)
        column, row = corner.clamp(0, self.side - 1).long().unbind(-1)
        return row * self.side + column, weights * inside

    def _read(self, keys: Tensor, geometry: Geometry) -> Tensor:
        """[batch, heads, key, width / heads], bilinearly at the points, float32."""
        places, weights = self.read_shares(geometry.points)
        batch, heads = torch.meshgrid(*(torch.arange(n, device=keys.device) for n in places.shape[:2]), indexing="ij")
        rows = (batch[..., None, None] * self.side**2 + places) * self.heads + heads[..., None, None]
        table = full(keys).reshape(len(keys) * self.side**2 * self.heads, -1)
        return torch.einsum("bhkp,bhkpc->bhkc", weights, F.embedding(rows, table))

    def _keys(self, read: Tensor) -> Tensor:
        """Rows whose product with a head's channels of the query is q · k / √head_width."""
        return read @ torch.einsum("hdi,hdj->hij", self.key, self.query) / math.sqrt(self.head_width)

    def _table(self) -> Tensor:
        """The biases [y, x] on a lattice evenly spaced in sign · ln(1 + |·|), as far as offsets can lead."""
        lines = torch.linspace(-self.reach, self.reach, self.lattice).to(self.places)
        return self.bias(torch.stack(torch.meshgrid(lines, lines, indexing="xy"), dim=-1)).squeeze(-1)

    def _at(self, geometry: Geometry) -> Tensor:
        """[batch · heads, line, key, (x, y)]: where in the table, from −1 to 1, a line's places and the keys meet."""
        points = 2 * geometry.points.flatten(0, 1) / (self.keys - 1) - 1
        difference = self.places[:, None, None] - points.unsqueeze(1)
        return torch.sign(difference) * torch.log1p(difference.abs()) / self.reach

    def _by_head(self, tokens: Tensor) -> Tensor:
        return full(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)


def full(x: Tensor) -> Tensor:
    """In float32 where half precision came in: points, biases and weights are too fine for less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

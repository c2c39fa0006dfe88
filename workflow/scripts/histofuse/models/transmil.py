"""TransMIL: Nyström attention over a slide's tiles, laid out as a square map (Shao et al., NeurIPS 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histofuse.io import InputError
from histofuse.models.magnifications import on_map
from histofuse.models.nystrom import NystromAttention


class TransMIL(nn.Module):
    """Linear and ReLU, a class token, two Nyström layers with a convolution of the map between them, a linear layer.

    The defaults are what the paper and KS-Fusion's authors use, but for one thing: `padded: true` gives the published
    padding (see `NystromAttention`). The paper trains one slide at a time with Lookahead over RAdam, lr 2e-4 and decay
    1e-5; KS-Fusion's authors 8 slides with Adam like all their rows. 2,673,172 parameters for 1,024 features and 4
    outputs.

    Args:
        shapes: {"tiles": (width,)}, of a bag with an order and a square number of places.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        width, heads, landmarks, dropout, padded: of the attention; heads of width / heads each.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        width: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        dropout: float = 0.1,
        padded: bool = False,
    ):
        super().__init__()
        self.tiles = nn.Sequential(nn.Linear(shapes["tiles"][0], width), nn.ReLU())
        self.encoder = MapEncoder(width, True, heads, landmarks, dropout, padded)
        self.head = nn.Linear(width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"tiles": [batch, tile, width], "tiles_place": [batch, place]} → [batch, outputs]

        Raises InputError for a bag that is no square map.
        """
        return self.head(self.encoder.class_token(places(batch, self.tiles)))

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"class_token": [batch, place]}: how the class token of the last layer attends to places, mean of the heads.

        No share of anything: a row of the Nyström approximation may have negative weights, and what it weighs has
        been mixed with other places by the layer and the convolution before.
        """
        tokens = self.encoder.before_last(places(batch, self.tiles))
        last = self.encoder.layers[1]
        return {"class_token": last.attention.row(last.norm(tokens)).mean(1)[:, 1:]}


class MapEncoder(nn.Module):
    """A class token and two Nyström layers: [batch, token, width] → the class token, or all of them, normalised.

    Args: on_map: the tokens are a square map's, row by row, and `MapPosition` stands between the layers. The others
    as of `TransMIL`.
    """

    def __init__(self, width: int, on_map: bool, heads: int, landmarks: int, dropout: float, padded: bool):
        super().__init__()
        self.start = nn.Parameter(torch.randn(width))
        options = {"heads": heads, "head_width": width // heads, "landmarks": landmarks}
        self.layers = nn.ModuleList(NystromLayer(width, dropout=dropout, padded=padded, **options) for _ in range(2))
        self.position = MapPosition(width) if on_map else nn.Identity()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, 1 + token, width], the class token first."""
        return self.norm(self.layers[1](self.before_last(tokens)))

    def class_token(self, tokens: Tensor) -> Tensor:
        """[batch, width]: the first of what `forward` gives, without the others."""
        return self.norm(self.layers[1].first(self.before_last(tokens)))

    def before_last(self, tokens: Tensor) -> Tensor:
        """[batch, 1 + token, width]: what the second layer takes."""
        start = self.start.to(tokens.dtype).expand(len(tokens), 1, -1)
        return self.position(self.layers[0](torch.cat([start, tokens], dim=1)))


class NystromLayer(nn.Module):
    """LayerNorm, Nyström attention and a residual connection: [batch, token, width] → the same."""

    def __init__(self, width: int, **attention):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = NystromAttention(width, **attention)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.attention(self.norm(tokens))

    def first(self, tokens: Tensor) -> Tensor:
        """The first token of what `forward` gives: [batch, width]."""
        return tokens[:, 0] + self.attention.first(self.norm(tokens))


class MapPosition(nn.Module):
    """TransMIL's PPEG: depthwise convolutions of 7, 5 and 3 of a square map, summed with the map itself.

    They are linear, so the sum is one convolution, whose kernel is the three laid over each other and a 1 in the
    middle. The class token, first of [batch, 1 + place, width], passes by.
    """

    def __init__(self, width: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in (7, 5, 3)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        side = math.isqrt(tokens.shape[1] - 1)
        squares = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        kernel = sum(F.pad(c.weight, [(7 - c.kernel_size[0]) // 2] * 4) for c in self.convolutions)
        kernel = kernel + F.pad(kernel.new_ones(1, 1, 1, 1), [3] * 4)
        bias = sum(c.bias for c in self.convolutions)
        squares = F.conv2d(squares, kernel, bias, padding=3, groups=len(kernel))
        return torch.cat([tokens[:, :1], squares.flatten(2).transpose(1, 2)], dim=1)


def places(batch: dict[str, Tensor], layer: nn.Module) -> Tensor:
    """`layer` of the tile at each place of the square map, [batch, place, width], run once on each distinct tile.

    Raises InputError for a bag that is no square map.
    """
    if "tiles_place" not in batch:
        raise InputError("inputs: tiles: the model reads a square map; give the input `order: raster` and `bag: 2500`")
    place = batch["tiles_place"]
    if math.isqrt(place.shape[1]) ** 2 != place.shape[1]:
        raise InputError(
            f"inputs: tiles: a bag of {place.shape[1]} is no square map; take `bag: 2500` or another square"
        )
    return on_map(layer(batch["tiles"]), place)

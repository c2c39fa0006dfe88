"""PathOmics, supervised: groups of genes and groups of tiles as two sets of tokens (Ding et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.branches import tables
from histofuse.models.layers import GatedAttention
from histofuse.models.token_fusion import GroupTokens, TokenPooling, joint_layers


class PathOmics(nn.Module):
    """A token per group of genes, and as many tokens of tiles; per modality a transformer and attention pooling.

    A slide's tiles fall into as many groups as there are tables, at random: drawn anew in each training step,
    dealt out in turn when predicting. The groups are alike by making, so they share one layer and one attention.

    Args:
        shapes: {"tiles": (width,)} and one tabular block per group of genes.
        outputs: the number of intervals (4 as published) or of classes, 1 for a Cox log hazard.
        width: of the tokens. layers, heads, feedforward, dropout: of the transformers; dropout also of all the rest.
    Raises InputError without tiles or without a table.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        width: int = 256,
        layers: int = 2,
        heads: int = 8,
        feedforward: int = 512,
        dropout: float = 0.25,
    ):
        super().__init__()
        blocks = tables(shapes)
        if "tiles" not in shapes or not blocks:
            raise InputError(f"inputs: tiles and a table per group of genes are needed; there are {', '.join(shapes)}")
        self.tiles = nn.Sequential(nn.Linear(shapes["tiles"][0], width, bias=False), nn.ReLU())
        self.tile_attention = GatedAttention(width, width, dropout)
        self.groups = GroupTokens([(name, 0, features) for name, features in blocks.items()], width, dropout)
        self.image = TokenPooling(width, layers, heads, feedforward, dropout)
        self.omics = TokenPooling(width, layers, heads, feedforward, dropout)
        self.joint = joint_layers(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"tiles": [batch, tile, width], "tiles_count": [batch, tile], block: [batch, features]} → [batch, outputs]"""
        omics = self.groups(batch)
        image = self._tile_tokens(batch["tiles"], batch["tiles_count"])
        return self.head(self.joint(torch.cat([self.image(image), self.omics(omics)], dim=1)))

    def _tile_tokens(self, tiles: Tensor, count: Tensor) -> Tensor:
        """[batch, group, width]: attention pooling of each group's tiles; 0 for a group that got none."""
        group = deal(count, len(self.groups), shuffle=self.training)
        hidden = self.tiles(tiles)
        score = self.tile_attention(hidden) + torch.log(count)
        of_group = group.unsqueeze(1) == torch.arange(len(self.groups), device=count.device).view(1, -1, 1)
        score = score.unsqueeze(1).masked_fill(~of_group | (count == 0).unsqueeze(1), torch.finfo(score.dtype).min)
        attention = torch.softmax(score, dim=2) * of_group * (count > 0).unsqueeze(1)
        return attention @ hidden


def deal(count: Tensor, groups: int, shuffle: bool) -> Tensor:
    """Number of the group of each tile, int64 [batch, tile]: groups of a slide differ by one tile at most.

    Tiles with a count of 0 are padding and are dealt last. `shuffle`: by torch's generator, otherwise in turn.
    """
    key = torch.rand(count.shape, device=count.device) if shuffle else torch.zeros_like(count)
    order = torch.argsort(key + (count == 0), dim=1, stable=True)
    return torch.argsort(order, dim=1) % groups

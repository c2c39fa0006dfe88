"""MCAT: groups of genes attend to a slide's tiles (Chen et al., ICCV 2021; a multimodal row of KS-Fusion's table)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from histofuse.models.gene_groups import gene_groups
from histofuse.models.token_fusion import GroupTokens, TokenPooling, joint_layers, tile_tokens


class MCAT(nn.Module):
    """A token per group of genes; each gathers the tiles that it attends to; transformers and pooling on both sets.

    The published training takes one slide at a time and steps after 32; nothing here mixes the rows of a batch, so a
    batch of 32 gives the same mean gradient.

    Args:
        shapes: {"tiles": (width,)} and a tabular block per group of genes, or one to be cut into `slices`. A bag that
            is laid out as a map is read as a bag.
        outputs: the number of intervals (4 as published) or of classes, 1 for a Cox log hazard.
        width: of the tokens. layers, heads, feedforward: of the transformers. dropout: of all layers.
        slices: see `gene_groups`; KS-Fusion's authors cut their list of 431 genes into 100, 100, 100 and 131.
    Raises InputError without tiles, and where `gene_groups` does.
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
        slices: int | Sequence[int] | None = None,
    ):
        super().__init__()
        self.tiles = tile_tokens(shapes, width, dropout)
        self.groups = GroupTokens(gene_groups(shapes, slices), width, dropout)
        self.coattention = CoAttention(width)
        self.image = TokenPooling(width, layers, heads, feedforward, dropout)
        self.omics = TokenPooling(width, layers, heads, feedforward, dropout)
        self.joint = joint_layers(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"tiles": [batch, tile, width], "tiles_count": [batch, tile], table: [batch, features]} → [batch, outputs]"""
        genes, seen, _ = self._tokens(batch)
        return self.head(self.joint(torch.cat([self.image(seen), self.omics(genes)], dim=1)))

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each group of genes attends to: {"attention_<group>": [batch, tile]}; takes what `forward` takes."""
        attention = self._tokens(batch)[2]
        return {f"attention_{name}": attention[:, k] for k, name in enumerate(self.groups)}

    def _tokens(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, group, width] of the genes and of the tiles they attend to, and the attention."""
        genes = self.groups(batch)
        return genes, *self.coattention(genes, self.tiles(batch["tiles"]), batch["tiles_count"])


class CoAttention(nn.MultiheadAttention):
    """Attention of a few tokens over a bag with one head, whose parameters and start are torch's.

    A bag holds each tile once and how often it counts; log(count) in the softmax makes that the repeated bag. Keys
    and values of the tiles are never made: what projects the keys is applied to the few queries instead, what
    projects the values to their few means. The keys' bias adds the same to all scores of a token and drops out.
    """

    def __init__(self, width: int):
        super().__init__(width, num_heads=1, batch_first=True)

    def forward(self, tokens: Tensor, tiles: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, token, width], [batch, tile, width], [batch, tile] → [batch, token, width], [batch, token, tile]"""
        of_query, of_key, of_value = self.in_proj_weight.chunk(3)
        query_bias, _, value_bias = self.in_proj_bias.chunk(3)
        query = nn.functional.linear(tokens, of_query, query_bias) / math.sqrt(self.embed_dim)
        score = (query @ of_key) @ tiles.transpose(1, 2)
        attention = torch.softmax(score + torch.log(count).unsqueeze(1), dim=2)
        return self.out_proj(nn.functional.linear(attention @ tiles, of_value, value_bias)), attention

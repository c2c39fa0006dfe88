"""What MCAT, CMTA and PathOmics have in common: tokens of tiles and of groups of genes, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.layers import GatedAttention, SelfNormalisingEncoder


def tile_tokens(shapes: Mapping[str, tuple[int, ...]], width: int, dropout: float) -> nn.Sequential:
    """A layer on every tile: [batch, tile, shapes["tiles"]] → [batch, tile, width]. Raises InputError without tiles."""
    if "tiles" not in shapes:
        raise InputError(f"inputs: tiles are needed; there are {', '.join(shapes)}")
    return nn.Sequential(nn.Linear(shapes["tiles"][0], width), nn.ReLU(), nn.Dropout(dropout))


class GroupTokens(nn.ModuleDict):
    """A self-normalising network of two layers per group: {table: [batch, features]} → [batch, group, width].

    Args:
        groups: (table, first column, column after the last) of each, as `gene_groups` gives them. A group is called
            after its table or, where several are cut from it, after its columns as well: `genes_1_100`.
    """

    def __init__(self, groups: Sequence[tuple[str, int, int]], width: int, dropout: float):
        names = group_names(groups)
        super().__init__(
            {
                name: SelfNormalisingEncoder(stop - start, (width, width), dropout)
                for name, (_, start, stop) in zip(names, groups)
            }
        )
        self.columns = tuple(groups)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        columns = [batch[table][:, start:stop] for table, start, stop in self.columns]
        return torch.stack([encoder(values) for encoder, values in zip(self.values(), columns)], dim=1)


class TokenPooling(nn.Module):
    """Of one modality: transformer, gated attention pooling and a layer. [batch, token, width] → [batch, width]"""

    def __init__(self, width: int, layers: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.attention = GatedAttention(width, width, dropout)
        self.out = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.transformer(tokens)
        weight = torch.softmax(self.attention(tokens), dim=1)
        return self.out(torch.einsum("bt,btw->bw", weight, tokens))


def joint_layers(width: int) -> nn.Sequential:
    """Of the two modalities' vectors side by side: [batch, 2 · width] → [batch, width]."""
    return nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def group_names(groups: Sequence[tuple[str, int, int]]) -> list[str]:
    """What groups of genes are called; columns are counted from 1, the last included."""
    tables = [table for table, _, _ in groups]
    return [table if tables.count(table) == 1 else f"{table}_{start + 1}_{stop}" for table, start, stop in groups]

"""Concat: AttMIL and SNN side by side, late fusion by one linear layer (KS-Fusion's simplest multimodal row)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from histofuse.models.layers import AttentionPooling, SelfNormalisingEncoder


class Concat(nn.Module):
    """[pooled tiles → 128 ; genes → 128] → linear. Only the fused output is supervised.

    Args:
        shapes: {"tiles": (width,), tabular block: (features,), …}.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        widths, dropout: of the gene encoder (a closing ReLU, as KS-Fusion's encoders have); the path vector has the
            width of its last layer.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        hidden: int = 128,
        widths: Sequence[int] = (64, 48, 32, 128),
        dropout: float = 0.1,
    ):
        super().__init__()
        self.blocks = tuple(name for name in shapes if name != "tiles")
        (width,) = shapes["tiles"]
        self.pooling = AttentionPooling(width, hidden)
        self.path = nn.Linear(width, widths[-1])
        features = sum(shapes[name][0] for name in self.blocks)
        self.genes = SelfNormalisingEncoder(features, widths, dropout, final_relu=True)
        self.head = nn.Linear(2 * widths[-1], outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"tiles": [batch, tile, width], "tiles_count": [batch, tile], block: [batch, features]} → [batch, outputs]"""
        path = self.path(self.pooling(batch["tiles"], batch["tiles_count"]))
        genes = self.genes(torch.cat([batch[name] for name in self.blocks], dim=1))
        return self.head(torch.cat([path, genes], dim=1))

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attention, and what each tile alone would add to the output through the image branch.

        {"tiles": …, "tiles_count": …} → {"attention": [batch, tile], "output": [batch, tile, outputs]}. The weighted
        sum of the outputs is the image's part of the slide's output; the genes and the head's bias make the rest.
        """
        tiles, width = batch["tiles"], self.path.out_features
        output = nn.functional.linear(self.path(tiles), self.head.weight[:, :width])
        return {"attention": self.pooling.attention(tiles, batch["tiles_count"]), "output": output}

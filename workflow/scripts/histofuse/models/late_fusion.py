"""Late fusion of AttMIL and SNN: what Concat, Add and Bilinear have in common (KS-Fusion's multimodal rows)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from histofuse.bags import is_bag
from histofuse.io import InputError
from histofuse.models.layers import AttentionPooling, SelfNormalisingEncoder


class LateFusion(nn.Module, ABC):
    """[pooled tiles → width ; genes → width] → joined → linear. Only the fused output is supervised.

    A row of the table says how the two vectors are joined: `join`, and how wide the result is.

    Args:
        shapes: {"tiles": (width,), tabular block: (features,), …}. A bag that is laid out as a map is read as a bag.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        hidden: width of the attention's hidden layer.
        widths, dropout: of the gene encoder (a closing ReLU, as KS-Fusion's encoders have); the path vector has the
            width of its last layer.
    Raises InputError without tiles or without a table.
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
        self.blocks = tuple(name for name in shapes if name != "regions" and not is_bag(name))
        if "tiles" not in shapes or not self.blocks:
            raise InputError(f"inputs: tiles and a table are needed; there are {', '.join(shapes)}")
        (width,) = shapes["tiles"]
        self.pooling = AttentionPooling(width, hidden)
        self.path = nn.Linear(width, widths[-1])
        features = sum(shapes[name][0] for name in self.blocks)
        self.genes = SelfNormalisingEncoder(features, widths, dropout, final_relu=True)
        self.head = nn.Linear(self.joined_width(widths[-1]), outputs)

    @staticmethod
    def joined_width(width: int) -> int:
        """Of the joined vector, given that of each of the two."""
        return width

    @abstractmethod
    def join(self, path: Tensor, genes: Tensor) -> Tensor:
        """[batch, width], [batch, width] → [batch, joined width]"""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"tiles": [batch, tile, width], "tiles_count": [batch, tile], block: [batch, features]} → [batch, outputs]"""
        path = self.path(self.pooling(batch["tiles"], batch["tiles_count"]))
        genes = self.genes(torch.cat([batch[name] for name in self.blocks], dim=1))
        return self.head(self.join(path, genes))

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"tiles": …, "tiles_count": …} → {"attention": [batch, tile]}"""
        return {"attention": self.pooling.attention(batch["tiles"], batch["tiles_count"])}


class LinearFusion(LateFusion):
    """Late fusion whose output is linear in the path vector, which meets the head's first columns."""

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attention, and what each tile alone would add to the output through the image branch.

        {"tiles": …, "tiles_count": …} → {"attention": [batch, tile], "output": [batch, tile, outputs]}. The weighted
        sum of the outputs is the image's part of the slide's output; the genes and the head's bias make the rest.
        """
        columns = self.head.weight[:, : self.path.out_features]
        return super().tile_scores(batch) | {"output": nn.functional.linear(self.path(batch["tiles"]), columns)}

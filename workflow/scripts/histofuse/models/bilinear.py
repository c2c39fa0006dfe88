"""Bilinear: the gated Kronecker product of the vectors of AttMIL and SNN (a multimodal row of KS-Fusion's table)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from histofuse.models.late_fusion import LateFusion
from histofuse.models.pathomic_fusion import GatedKronecker


class Bilinear(LateFusion):
    """ReLU on both vectors of 128, Pathomic Fusion's product of them at full width, then linear.

    Both vectors are gated, the 129² products go through two layers of 128 with batch normalisation, and no vector
    passes beside the product. It is no sum of branches, so that a tile alone has an attention but no output.

    Args:
        shapes, outputs, hidden, widths, dropout: see `LateFusion`. product_dropout: of the gates and of the product's
            layers.
    Raises InputError in training on a batch of one row, which batch normalisation cannot do.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        hidden: int = 128,
        widths: Sequence[int] = (64, 48, 32, 128),
        dropout: float = 0.1,
        product_dropout: float = 0.25,
    ):
        super().__init__(shapes, outputs, hidden, widths, dropout)
        width = widths[-1]
        self.product = GatedKronecker(
            width, width, True, True, vector=width, width=width, dropout=product_dropout, batch_norm=True
        )

    def join(self, path: Tensor, genes: Tensor) -> Tensor:
        return self.product(torch.relu(path), torch.relu(genes))

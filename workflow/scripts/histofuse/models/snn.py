"""SNN: the self-normalising network on genomic features, the genomic row of every paper's table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from histofuse.models.layers import SelfNormalisingEncoder, bounded_log_hazard, init_self_normalising


class SNN(nn.Module):
    """All tabular blocks, side by side, through four self-normalising layers and a linear head.

    Args:
        shapes: {block: (features,)}, in the order of the entry's `inputs`.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        widths, dropout, final_relu: see `SelfNormalisingEncoder`; the defaults are Pathomic Fusion's (26,321
            parameters at 320 features).
        bounded: the output through 6·sigmoid − 3, as Pathomic Fusion's rows have it.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        widths: Sequence[int] = (64, 48, 32, 32),
        dropout: float = 0.25,
        final_relu: bool = False,
        bounded: bool = False,
    ):
        super().__init__()
        self.blocks = tuple(shapes)
        features = sum(shape[0] for shape in shapes.values())
        self.encoder = SelfNormalisingEncoder(features, widths, dropout, final_relu)
        self.head = nn.Linear(widths[-1], outputs)
        self.bounded = bounded
        init_self_normalising(self.head)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{block: [batch, features]} → [batch, outputs]"""
        logits = self.head(self.encoder(torch.cat([batch[name] for name in self.blocks], dim=1)))
        return bounded_log_hazard(logits) if self.bounded else logits

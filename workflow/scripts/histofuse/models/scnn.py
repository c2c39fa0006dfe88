"""SCNN and GSCNN: a convolutional network trained on regions, alone or with a few genomic variables beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from histofuse.models.branches import tables
from histofuse.models.vgg import VGG19, VGGFeatures


class SCNN(nn.Module):
    """Convolutions, three fully connected layers and a unit for the log hazard (Mobadersany et al., 2018).

    Tabular blocks among the inputs make it a GSCNN: they stand beside the image's features where these enter the first
    fully connected layer.

    Args:
        shapes: {"regions": (3, px, px)}, and the tabular blocks of a GSCNN.
        outputs: 1 for a Cox log hazard (a unit without bias), the number of intervals or of classes otherwise.
        hidden, dropout: of the fully connected layers.
        stages, pooled, batch_norm, checkpoint: of `VGGFeatures`; all of it is trained.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        hidden: Sequence[int] = (1000, 1000, 256),
        dropout: float = 0.05,
        stages: Sequence[Sequence[int]] = VGG19,
        pooled: int = 7,
        batch_norm: bool = True,
        checkpoint: str | None = None,
    ):
        super().__init__()
        blocks = tables(shapes)
        self.blocks = tuple(blocks)
        self.stack = VGGFeatures(stages, pooled, batch_norm, bn_mode="train", checkpoint=checkpoint)
        self.layers = nn.Sequential()
        before = self.stack.width + sum(blocks.values())
        for width in hidden:
            self.layers.extend([nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)])
            before = width
        self.head = nn.Linear(before, outputs, bias=outputs > 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"regions": [batch, 3, px, px], block: [batch, features]} → [batch, outputs]"""
        inputs = [self.stack(batch["regions"]), *(batch[name] for name in self.blocks)]
        return self.head(self.layers(torch.cat(inputs, dim=1)))

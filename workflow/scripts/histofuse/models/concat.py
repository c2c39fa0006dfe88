"""Concat: AttMIL and SNN side by side, late fusion by one linear layer (KS-Fusion's simplest multimodal row)."""

from __future__ import annotations

import torch
from torch import Tensor

from histofuse.models.late_fusion import LinearFusion


class Concat(LinearFusion):
    """[pooled tiles → 128 ; genes → 128] → linear. Arguments: see `LateFusion`."""

    @staticmethod
    def joined_width(width: int) -> int:
        return 2 * width

    def join(self, path: Tensor, genes: Tensor) -> Tensor:
        return torch.cat([path, genes], dim=1)

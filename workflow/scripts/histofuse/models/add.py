"""Add: the vectors of AttMIL and SNN added up, then one linear layer (a multimodal row of KS-Fusion's table)."""

from __future__ import annotations

from torch import Tensor

from histofuse.models.late_fusion import LinearFusion


class Add(LinearFusion):
    """(pooled tiles → 128) + (genes → 128) → linear. Arguments: see `LateFusion`."""

    def join(self, path: Tensor, genes: Tensor) -> Tensor:
        return path + genes

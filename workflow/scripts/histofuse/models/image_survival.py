"""One image network and a linear head: the histology rows of Path-GPTOmic's and Pathomic Fusion's tables."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from histofuse.models.branches import image_branch
from histofuse.models.layers import bounded_log_hazard


class ImageSurvival(nn.Module):
    """Images of a row to one vector, a linear layer to the outputs.

    Args:
        shapes: {"regions": (3, px, px)} or {"tiles": (width,)}.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        image: keywords of the image branch (`branches.RegionEncoder` or `PooledTiles`).
        bounded: the output through 6·sigmoid − 3, as Pathomic Fusion's rows have it.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        image: Mapping | None = None,
        bounded: bool = False,
    ):
        super().__init__()
        self.image = image_branch(shapes, image)
        self.head = nn.Linear(self.image.width, outputs)
        self.bounded = bounded

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{images: …} → [batch, outputs]"""
        logits = self.head(self.image(batch))
        return bounded_log_hazard(logits) if self.bounded else logits

    def vectors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a fusion of this run's images is trained on: {images: …} → {"image": [batch, width]}."""
        return {"image": self.image(batch)}

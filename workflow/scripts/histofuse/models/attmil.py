"""AttMIL: attention pooling of a slide's tile features, the histology row of KS-Fusion's table."""

from __future__ import annotations

from torch import Tensor, nn

from histofuse.models.layers import AttentionPooling


class AttMIL(nn.Module):
    """Attention pooling directly on the tile features, then one linear layer.

    Args:
        shapes: {"tiles": (width,)}.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        hidden: width of the attention's hidden layer.
        dropout: on the pooled vector (0 in the published form).
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], outputs: int, hidden: int = 128, dropout: float = 0.0):
        super().__init__()
        (width,) = shapes["tiles"]
        self.pooling = AttentionPooling(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{"tiles": [batch, tile, width], "tiles_count": [batch, tile]} → [batch, outputs]"""
        return self.head(self.dropout(self.pooling(batch["tiles"], batch["tiles_count"])))

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attention, and the head's output for each tile alone: their weighted sum is the slide's output.

        {"tiles": …, "tiles_count": …} → {"attention": [batch, tile], "output": [batch, tile, outputs]}.
        """
        tiles = batch["tiles"]
        return {"attention": self.pooling.attention(tiles, batch["tiles_count"]), "output": self.head(tiles)}

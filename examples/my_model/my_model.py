"""A model of your own: what a slide's worst spots look like, beside a score of the genes."""

import torch
from torch import nn


class HotSpots(nn.Module):
    """Every tile gets a score; the highest `share` of them make the slide's, as a grade follows from the worst field.

    shapes and outputs come from the workflow: {"tiles": (width,), "expression": (genes,)}, and 1 for survival or the
    number of classes. All other arguments are the entry's `params`.
    """

    def __init__(self, shapes, outputs, hidden=32, share=0.1, dropout=0.25):
        super().__init__()
        (width,), (genes,) = shapes["tiles"], shapes["expression"]
        self.share = share
        self.tile = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
        self.genes = nn.Sequential(nn.Dropout(dropout), nn.Linear(genes, outputs))

    def forward(self, batch):
        """{"tiles": [case, tile, width], "tiles_count": [case, tile], "expression": [case, gene]} → [case, output]"""
        stored = batch["tiles_count"] > 0  # slides have different numbers of tiles; shorter bags are padded
        score = self.tile(batch["tiles"]).masked_fill(~stored.unsqueeze(2), -torch.inf)
        ranked = score.sort(dim=1, descending=True).values
        kept = (self.share * stored.sum(dim=1, keepdim=True)).ceil()
        hot = torch.arange(ranked.shape[1], device=ranked.device) < kept
        slide = ranked.masked_fill(~hot.unsqueeze(2), 0).sum(dim=1) / kept
        return slide + self.genes(batch["expression"])

    def tile_scores(self, batch):
        """Only needed for heatmaps: a number per tile, [case, tile], under any name."""
        return {"suspicion": self.tile(batch["tiles"])[..., 0]}

"""The example of a user's own model does what it says."""

import math
from pathlib import Path

import torch

from histofuse.models.registry import load_class

FILE = Path(__file__).parents[3] / "examples" / "my_model" / "my_model.py"


def test_the_highest_share_of_a_slides_own_tiles_makes_its_score():
    torch.manual_seed(0)
    model = load_class("my_model:HotSpots", FILE)({"tiles": (5,), "expression": (3,)}, 2, share=0.3).eval()
    sizes = [7, 4, 1]
    batch = {"tiles": torch.randn(3, 7, 5), "expression": torch.randn(3, 3)}
    batch["tiles_count"] = (torch.arange(7) < torch.tensor(sizes).unsqueeze(1)).float() * 2
    output = model(batch)
    for row, n in enumerate(sizes):
        score = model.tile(batch["tiles"][row, :n])
        highest = score.topk(math.ceil(0.3 * n), dim=0).values.mean(0)
        torch.testing.assert_close(output[row], highest + model.genes(batch["expression"][row]))
    output.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    torch.testing.assert_close(model.tile_scores(batch)["suspicion"], model.tile(batch["tiles"])[..., 0])

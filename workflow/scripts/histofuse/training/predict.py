"""Outputs of a trained model for rows of a split: in evaluation mode, in a fixed order, nothing drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from histofuse.models.output import Output, total_of
from histofuse.training.batches import Batches

AT_ONCE = {"rows": 64, "bags": 16}  # images or table rows, and bags of thousands of tiles, that are predicted at once


def predict(model: nn.Module, batches: Batches, rows: np.ndarray) -> np.ndarray:
    """Outputs [row, output] as float64, in evaluation mode and in a fixed order.

    With regions [row · crop, output]: the outputs of all fixed crops of the first row, then of the second, ….
    """
    return outputs_and_parts(model, batches, rows)[0]


def predict_parts(model: nn.Module, batches: Batches, rows: np.ndarray, middle: bool = False) -> dict[str, np.ndarray]:
    """{branch: outputs like those of `predict`} of a model that returns `Output`; of one with heads {branch_head: …}.

    middle: of a region the middle one of its fixed crops alone; for figures asked for after every epoch.
    """
    return outputs_and_parts(model, batches, rows, middle)[1]


@torch.inference_mode()
def evaluate(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    model: nn.Module,
    batches: Batches,
    rows: np.ndarray,
    middle: bool = False,
) -> dict:
    """{name: float64 [row · crop, …]} of a function of a batch that gives {name: Tensor}."""
    model.eval()
    size = AT_ONCE["bags"] if batches.bags else max(1, AT_ONCE["rows"] // (1 if middle else batches.views))
    some = (rows[start : start + size] for start in range(0, len(rows), size))
    found = [function(batches.to_predict(of, middle)) for of in some]
    return {name: torch.cat([each[name] for each in found]).double().cpu().numpy() for name in found[0]}


def outputs_and_parts(
    model: nn.Module, batches: Batches, rows: np.ndarray, middle: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `predict` and `predict_parts` give, in one pass; no parts of a model without branches."""

    def total_and_parts(batch):
        outputs = model(batch)
        return {"": total_of(outputs)} | (parts_of(outputs) if isinstance(outputs, Output) else {})

    parts = evaluate(total_and_parts, model, batches, rows, middle)
    return parts.pop(""), parts


def parts_of(outputs: Output) -> dict[str, Tensor]:
    """{branch: its part} of an output, {branch_head: its part} where it has heads."""
    return {
        f"{branch}_{head}" if head else branch: part
        for head, of_head in outputs.supervised().items()
        for branch, part in of_head.parts.items()
    }

"""What a model of two branches puts out: the total, and what each branch adds to it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """total: [batch, outputs]; parts: {branch: [batch, outputs]}, which add up to the total.

    A model that returns it has a method `branches()` → {branch: [parameter]}, with the same names: the parameters
    that belong to one branch alone, for learning rates, freezing and modulation per branch. Those of the layer that
    joins the branches are in none.
    """

    total: Tensor
    parts: dict[str, Tensor]


def total_of(outputs: Tensor | Output) -> Tensor:
    """[batch, outputs] of a model with branches or without."""
    return outputs.total if isinstance(outputs, Output) else outputs

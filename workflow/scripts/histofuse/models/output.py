"""What a model may put out beside plain outputs: parts that add up, several supervised outputs, losses of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """total: [batch, outputs], what is predicted.

    parts: {branch: [batch, outputs]}, which add up to the total. A model that gives them has a method `branches()` →
        {branch: [parameter]}, with the same names: the parameters that belong to one branch alone, for learning rates,
        freezing and modulation per branch. Those of the layer that joins the branches are in none.
    heads: {name: Output} where several outputs are supervised, each by the task's loss: `total`, a combination of
        them, then only predicts. A head may have parts.
    losses: {name: scalar}, weighted already, which training adds to the task's loss; only given in training mode.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Output] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)

    def supervised(self) -> dict[str, Output]:
        """The outputs that the task's loss is taken of: the heads, or this one under the name ""."""
        return self.heads or {"": self}

    def float(self) -> Output:
        """The same in float32, for losses of what autocast left in half precision."""
        return Output(
            self.total.float(),
            {name: part.float() for name, part in self.parts.items()},
            {name: head.float() for name, head in self.heads.items()},
            {name: loss.float() for name, loss in self.losses.items()},
        )


def total_of(outputs: Tensor | Output) -> Tensor:
    """[batch, outputs] of a model with branches or without."""
    return outputs.total if isinstance(outputs, Output) else outputs

"""What two branches that learn together may have done to their steps, and the one way in which the loop asks for it.

`kind: balance` (the default) slows the branch that learns faster, see `balance`; `kind: coordination` projects the
conflicting gradient of the fused decoder, see `coordination`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.training.balance import Balance
from histofuse.training.coordination import BY_TASK, CONFIDENCES, Coordination

# The kinds, each with its keys; the configuration is checked by this table, too.
KEYS = {
    "balance": ("rule", "apply", "alpha", "ema", "window", "noise"),
    "coordination": ("operation", "granularity", "confidence", "rows", "min_pairs"),
}


class Interface(Protocol):
    """What the loop calls, in this order; `before_step` never waits for the device."""

    def start_epoch(self, epoch: int, optimiser: torch.optim.Optimizer) -> None:
        """Once the groups have the epoch's learning rates."""

    def before_step(self, scores: Any) -> None:
        """Once gradients are there and clipped; scores: what the objective returned beside the loss."""

    def end_epoch(self) -> dict[str, float | list[float]]:
        """Columns of the history."""

    def state(self) -> dict[str, Tensor]:
        """After an epoch: what a resumed run needs."""

    def load(self, state: dict[str, Tensor]) -> None: ...


def rule_of(options: Mapping | None) -> str | None:
    """By which rule the objective has to judge the branches, None without a modulation."""
    if options is None:
        return None
    if _kind(options) == "balance":
        return options.get("rule", "softmax_sum")
    confidence = options.get("confidence", BY_TASK)
    if confidence not in CONFIDENCES:
        raise InputError(f"training: modulation: confidence: {confidence!r} is not one of {', '.join(CONFIDENCES)}")
    return confidence


def optimiser_options(options: Mapping | None) -> dict:
    """What a modulation wants of the optimiser: balancing decays the weights itself."""
    return {"weight_decay": 0.0} if options is not None and _kind(options) == "balance" else {}


def make_modulation(
    options: Mapping | None,
    model: nn.Module,
    branches: Mapping[str, Sequence[nn.Parameter]],
    optimiser: str,
    weight_decay: float,
) -> Interface | None:
    """The modulation of a run, None without `options`.

    Args:
        options: an entry's `training: modulation`: `kind`, and the keywords of its class. model, on its device;
        branches: its parameters by branch, the optimiser's groups. optimiser, weight_decay: of the entry's training.
    Raises InputError when model or optimiser do not lend themselves to it, or an option is unknown or of
    the other kind.
    """
    if options is None:
        return None
    keywords = {key: value for key, value in options.items() if key not in {"kind", "confidence"}}
    if _kind(options) == "balance":
        if optimiser == "adagrad":
            raise InputError("training: modulation: is made for the optimisers sgd, adam and adamw, not for adagrad")
        return Balance(branches, **keywords, weight_decay=weight_decay)
    if not hasattr(model, "decoders"):
        raise InputError(
            f"training: modulation: kind: coordination: {type(model).__name__} has no decoders(), the weights that "
            "join its two branches. Leave the key out, or give it that method"
        )
    return Coordination(model.decoders(), **keywords)


def _kind(options: Mapping) -> str:
    """The kind of a modulation. Raises InputError when it is unknown, or a key is not one of its own."""
    kind = options.get("kind", "balance")
    if kind not in KEYS:
        raise InputError(f"training: modulation: kind: {kind!r} is not one of {', '.join(KEYS)}")
    strange = [key for key in options if key not in {"kind", *KEYS[kind]}]
    if strange:
        raise InputError(
            f"training: modulation: {strange[0]}: is no key of kind {kind}, which has {', '.join(KEYS[kind])}"
        )
    return kind

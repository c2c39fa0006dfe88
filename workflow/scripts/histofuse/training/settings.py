"""How a network is trained: the `training` part of a model entry, and the optimiser that it asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from histofuse.training.modulation import optimiser_options, rule_of

# One kernel a step, and learning rates that balancing can change on the device.
FUSED = {"fused": True}


@dataclass(frozen=True)
class Settings:
    """The `training` part of a model entry.

    batch_size: rows per step, or "full" for whole-cohort risk sets. unique_cases: a batch holds one row of a case at
    most. optimiser: "adam", "adamw", "sgd" (momentum: the first of `betas`) or "adagrad" (accumulators begin at 0.1).
    schedule: "constant", "linear" (Pathomic Fusion's: factor 1 − (epoch + 1)/(epochs + 1)), "cosine" (to 0) or
    "exponential" (`decay` to the power of the epoch), stepped per epoch and begun after `constant_epochs`;
    warmup_epochs: so many first epochs in which the rate rises from 0, after which it is stepped, like it, at every
    batch. precision:
    of the model's arithmetic in training, "float32" or "bfloat16" where that is safe (autocast). l1: weight of Σ|w|
    over all trained parameters.
    clip_norm: of the gradient, None for none. select: "last" epoch, or the best on the validation part by `criterion`
    ("validation", strictly better, so the earliest best one). average: the last so many epochs whose weights' mean is
    the model, 1 for the last alone.

    Of a model with `branches()`: branch_lr: {branch: its learning rate} instead of `lr`. frozen: {branch: the first
    epochs in which it is not trained}. l1_branch: the one that `l1` is for. modulation: options of
    `modulation.make_modulation`; where branches are balanced, weight decay is decoupled for every optimiser.
    """

    epochs: int
    lr: float
    batch_size: int | str = 64
    optimiser: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "linear"
    l1: float = 0.0
    clip_norm: float | None = None
    select: str = "last"
    unique_cases: bool = False
    decay: float = 0.95
    constant_epochs: int = 0
    warmup_epochs: int = 0
    average: int = 1
    precision: str = "float32"
    branch_lr: dict[str, float] | None = None
    frozen: dict[str, int] | None = None
    l1_branch: str | None = None
    modulation: dict | None = None

    @property
    def rule(self) -> str | None:
        """By which rule the objective judges the branches, None without a modulation."""
        return rule_of(self.modulation)

    @property
    def balances(self) -> bool:
        """Whether the modulation changes learning rates on the device."""
        return self.modulation is not None and self.modulation.get("kind", "balance") == "balance"

    def lr_factor(self, epoch: float) -> float:
        """Of the learning rate in an epoch, counted from 0; where rates are stepped per batch, between epochs too."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        first = self.warmup_epochs + self.constant_epochs
        if epoch < first or self.schedule == "constant":
            return 1.0
        epoch, epochs = epoch - first, self.epochs - first
        if self.schedule == "linear":
            return 1 - (epoch + 1) / (epochs + 1)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return self.decay**epoch

    def optimiser_for(self, groups: list[dict]) -> torch.optim.Optimizer:
        """Groups that bear their learning rate."""
        options = {"lr": self.lr, "weight_decay": self.weight_decay} | optimiser_options(self.modulation)
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=self.betas[0], **FUSED, **options)
        if self.optimiser == "adagrad":
            return torch.optim.Adagrad(groups, initial_accumulator_value=0.1, **options)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimiser]
        return kind(groups, betas=tuple(self.betas), **FUSED, **options)

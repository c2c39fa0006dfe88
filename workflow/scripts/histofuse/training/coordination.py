"""Gradient coordination of two branches in the decoder that joins them (CG-Coord of KS-Fusion, Zhang et al. 2024).

The decoder's weight W [outputs, 2·width] has one half for each branch, and so has its gradient: a and b. Where they
conflict, a·b < 0, the half of the branch that is less trusted loses what points against the other:

    a' = a − (a·b / ‖b‖²) b

This happens after the backward pass and clipping, before the optimiser's step, to this one gradient: the decoder's
bias and everything before it keep theirs. As a and b belong to *different* weights, a·b < 0 is not the conflict of
several losses over shared weights that projections were made for: going along a does not undo a step along b. It is a
heuristic that couples the two halves, and nothing more is promised of it.

How far a branch is trusted (`confidence`), by its own part of the output on training rows:

    likelihood    chance of what was seen, mean over the step's rows: of the true class, of death or censoring in its
                  interval; with Cox's loss, of each death among those at risk (summed over deaths, per row)
    concordance   Harrell's C over the last rows trained on, a few hundred: in a batch of 8 it would be noise
    by_task       concordance for survival, likelihood for classes

Confidences are compared, never divided. Equal ones, or a C of too few pairs, change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histofuse.io import InputError

BY_TASK = "by_task"
CONFIDENCES = (BY_TASK, "concordance", "likelihood")
OPERATIONS = ("projection", "reflection")
GRANULARITIES = ("block", "row")


class Evidence(NamedTuple):
    """What the two branches of each head are judged by in a step.

    heads, branches: their names. values: likelihoods [head, 2]; or, with time and event [batch], risks
    [head, 2, batch], the higher the earlier the death.
    """

    heads: tuple[str, ...]
    branches: tuple[str, ...]
    values: Tensor
    time: Tensor | None = None
    event: Tensor | None = None


@torch.no_grad()
def concordance(risk: Tensor, time: Tensor, event: Tensor, min_pairs: int = 1) -> Tensor:
    """Harrell's C [...] of risks [..., row], NaN while fewer than `min_pairs` pairs are comparable; on the device.

    Pairs and ties as in `evaluation.survival.harrell_c`. Memory grows as row².
    """
    later = time.unsqueeze(0) > time.unsqueeze(1)
    censored_then = (time.unsqueeze(0) == time.unsqueeze(1)) & (event == 0).unsqueeze(0)
    comparable = (event == 1).unsqueeze(1) & (later | censored_then)
    order = torch.sign(risk.unsqueeze(-1) - risk.unsqueeze(-2))  # 1 concordant, 0 tied, −1 discordant
    pairs = comparable.sum()
    c = 0.5 + 0.5 * (order * comparable).sum((-2, -1), dtype=torch.float64) / pairs
    return torch.where(pairs >= min_pairs, c, torch.nan)


@torch.no_grad()
def coordinate(
    gradient: Tensor, confidence: Tensor, operation: str = "projection", granularity: str = "block"
) -> tuple[Tensor, Tensor, Tensor]:
    """A decoder's gradient [outputs, 2·width] after coordination of its halves, by confidences [2].

    Args:
        operation: "projection", see above; "reflection", as the authors' code: the projection is subtracted twice and
            the result has the length of the projected vector, so that a cosine of −c becomes +c.
        granularity: "block", a and b are the whole halves; "row", those of each output for itself.
    Returns: the gradient, the same bits where nothing is to be done; cosine(s) of a and b [1 or outputs], 0 where one
        is 0; whether each branch was changed, bool [2, 1 or outputs].
    """
    outputs, columns = gradient.shape
    halves = gradient.double().reshape(outputs, 2, columns // 2).transpose(0, 1)
    if granularity == "block":
        halves = halves.reshape(2, 1, -1)
    others = halves.flip(0)
    dot = halves.prod(0).sum(-1)
    lengths = halves.norm(dim=-1, keepdim=True)
    changed = (dot < 0) & (confidence < confidence.flip(0)).unsqueeze(1)
    along = (dot.unsqueeze(-1) / others.square().sum(-1, keepdim=True)) * others
    moved = halves - along
    if operation == "reflection":
        moved = (moved - along) * (moved.norm(dim=-1, keepdim=True) / lengths)
    result = torch.where(changed.unsqueeze(-1), moved, halves)
    result = result.reshape(2, outputs, columns // 2).transpose(0, 1).reshape(outputs, columns)
    cosine = torch.where(dot == 0, 0, dot / lengths.prod(0).squeeze(-1))
    return result.to(gradient.dtype), cosine, changed


class Coordination:
    """The coordination of a run's decoders, before each step of the optimiser.

    Args:
        decoders: {head: weight [outputs, 2·width]}, the halves in the order of the head's parts; "" without heads.
        operation, granularity: see `coordinate`.
        rows: of the latest training rows that a concordance is taken over. min_pairs: it needs.
    Raises InputError when a decoder does not have two halves or an option is unknown.
    """

    def __init__(
        self,
        decoders: Mapping[str, nn.Parameter],
        operation: str = "projection",
        granularity: str = "block",
        rows: int = 256,
        min_pairs: int = 50,
    ):
        for key, value, known in (("operation", operation, OPERATIONS), ("granularity", granularity, GRANULARITIES)):
            if value not in known:
                raise InputError(f"training: modulation: {key}: {value!r} is not one of {', '.join(known)}")
        for head, weight in decoders.items():
            if weight.ndim != 2 or weight.shape[1] % 2:
                raise InputError(
                    f"training: modulation: the decoder {head!r} has the shape {list(weight.shape)}; "
                    "it needs columns for two equally wide branches"
                )
        self.decoders = dict(decoders)
        self.operation, self.granularity, self.min_pairs = operation, granularity, min_pairs
        device = next(iter(self.decoders.values())).device
        # Empty places are censored before all others: no pair is comparable with them.
        self.risk = torch.zeros(len(self.decoders), 2, rows, device=device)
        self.time = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        self.event = torch.zeros(rows, dtype=torch.int64, device=device)

    def start_epoch(self, epoch: int, optimiser: torch.optim.Optimizer) -> None:
        self.steps: list[Tensor] = []

    @torch.no_grad()
    def before_step(self, evidence: Evidence) -> None:
        """Coordinate the gradients of the decoders' weights, which are there, clipped. No host sync."""
        if set(evidence.heads) != set(self.decoders):
            named = [", ".join(map(repr, names)) for names in (self.decoders, evidence.heads)]
            raise InputError(f"training: modulation: decoders() are of the heads {named[0]}, the output has {named[1]}")
        self.heads, self.branches = evidence.heads, evidence.branches
        step = []
        for head, confidence in zip(self.heads, self._confidence(evidence)):
            weight = self.decoders[head]
            if weight.grad is None:
                raise InputError(f"training: modulation: the decoder {head!r} has no gradient: it is frozen or unused")
            gradient, cosine, changed = coordinate(weight.grad, confidence, self.operation, self.granularity)
            weight.grad.copy_(gradient)
            figures = [(cosine < 0).double().mean(), cosine.mean(), *changed.double().mean(1), *confidence.double()]
            step.append(torch.stack(figures))
        self.steps.append(torch.stack(step))

    def end_epoch(self) -> dict[str, float]:
        """What the epoch's steps were; with heads for each, its name added.

        `conflict`: the share of steps with a negative cosine (by row: of steps and rows); `cosine`: its mean;
        `projected_` and `confidence_` of each branch: the share of steps in which it was changed, and the mean
        confidence (NaN if there never was one).
        """
        columns = ["conflict", "cosine"]
        columns += [f"{figure}_{branch}" for figure in ("projected", "confidence") for branch in self.branches]
        means = torch.stack(self.steps).nanmean(0).tolist()
        return {
            f"{column}_{head}" if head else column: value
            for head, of_head in zip(self.heads, means)
            for column, value in zip(columns, of_head)
        }

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: the latest rows."""
        return {"risk": self.risk, "time": self.time, "event": self.event}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state().items():
            value.copy_(state[name])

    def _confidence(self, evidence: Evidence) -> Tensor:
        """[head, 2]"""
        if evidence.time is None:
            return evidence.values
        rows = len(self.time)
        self.risk = torch.cat([self.risk, evidence.values], dim=-1)[..., -rows:]
        self.time = torch.cat([self.time, evidence.time])[-rows:]
        self.event = torch.cat([self.event, evidence.event])[-rows:]
        return concordance(self.risk, self.time, self.event, self.min_pairs)

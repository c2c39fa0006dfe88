"""What a step minimises and, under a modulation, each branch's score on the rows of the step.

Every objective is a function of (outputs, row numbers) → scalar. Given the `rule` of a modulation (see
`training.modulation`) its outputs are an `Output` of two parts, and it returns (scalar, scores [2]).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from histofuse.models.output import Output, total_of
from histofuse.training import losses
from histofuse.training.dataset import Target
from histofuse.training.modulation import likelihood_scores, risk_set_scores

Objective = Callable[[Tensor | Output, Tensor], Tensor | tuple[Tensor, Tensor]]


def cox(target: Target, device: torch.device, rule: str | None = None, **options) -> Objective:
    """Cox's loss with these options; the sums over risk sets of total and parts are taken together."""
    time, event = torch.from_numpy(target.time).to(device), torch.from_numpy(target.event).to(device)

    def plain(outputs, rows):
        return losses.cox_loss(total_of(outputs).squeeze(-1), time[rows], event[rows], **options)

    def with_scores(outputs, rows):
        at, died = time[rows], event[rows]
        parts = [part.detach() for part in outputs.parts.values()]
        stacked = torch.stack([outputs.total, *parts]).squeeze(-1)
        log_risk = losses.log_at_risk(stacked, at)
        value = losses.cox_loss_at(stacked[0], log_risk[0], at, died, **options)
        return value, risk_set_scores(rule, stacked[1:], log_risk[1:], at, died)

    return plain if rule is None else with_scores


def discrete(target: Target, interval: np.ndarray, device: torch.device, rule: str | None = None) -> Objective:
    """The likelihood of discrete hazards; interval: int64 [row], where each row's time lies."""
    at, event = torch.from_numpy(interval).to(device), torch.from_numpy(target.event).to(device)
    return _of_rows(
        lambda outputs, rows: losses.discrete_survival_loss(outputs, at[rows], event[rows]),
        lambda outputs, rows: losses.discrete_log_likelihood(outputs, at[rows], event[rows]),
        rule,
    )


def classes(target: Target, weight: np.ndarray, device: torch.device, rule: str | None = None) -> Objective:
    """Cross-entropy, weighted by class: weight [class]."""
    label = torch.from_numpy(target.label).to(device)
    of_class = torch.tensor(weight, dtype=torch.float32).to(device)
    return _of_rows(
        lambda outputs, rows: losses.cross_entropy(outputs, label[rows], of_class),
        lambda outputs, rows: losses.class_log_likelihood(outputs, label[rows]),
        rule,
    )


def _of_rows(loss: Callable, log_likelihood: Callable, rule: str | None) -> Objective:
    """The loss of the total, with scores from the log likelihood [row] that each part alone gives to what was seen."""

    def objective(outputs, rows):
        value = loss(total_of(outputs), rows)
        if rule is None:
            return value
        parts = [log_likelihood(part.detach(), rows) for part in outputs.parts.values()]
        return value, likelihood_scores(rule, torch.stack(parts))

    return objective

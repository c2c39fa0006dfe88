"""What a step minimises and, under a modulation, by what each branch is judged on the rows of the step.

Every objective is a function of (outputs, row numbers) → scalar: the task's loss of the total, or summed over the
totals of several supervised heads, and the model's own losses. Given the `rule` of a modulation (`modulation.rule_of`)
its outputs are an `Output` of which every head is the sum of two parts, and it returns (scalar, scores):

- a rule of `balance`: scores [2]; of one head alone,
- a confidence of `coordination`: its `Evidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor

from histofuse.io import InputError
from histofuse.models.output import Output, total_of
from histofuse.training import losses
from histofuse.training.balance import CLASS_RULES, RULES, likelihood_scores, risk_set_scores
from histofuse.training.coordination import BY_TASK, CONFIDENCES, Evidence
from histofuse.training.dataset import Target

Objective = Callable[[Tensor | Output, Tensor], Tensor | tuple[Tensor, Tensor | Evidence]]


def cox(target: Target, device: torch.device, rule: str | None = None, **options) -> Objective:
    """Cox's loss with these options; the sums over risk sets of totals and parts are taken together."""
    time, event = torch.from_numpy(target.time).to(device), torch.from_numpy(target.event).to(device)
    rule = "concordance" if rule == BY_TASK else rule

    def objective(outputs, rows):
        at, died, heads = time[rows], event[rows], _heads(outputs)
        totals, parts = [total_of(head) for head in heads.values()], _parts(heads, rule)
        of_sets = totals if rule == "concordance" else [*totals, *parts]
        stacked = torch.stack(of_sets).squeeze(-1)
        log_risk = losses.log_at_risk(stacked, at)
        n = len(heads)
        value = sum(losses.cox_loss_at(*both, at, died, **options) for both in zip(stacked[:n], log_risk[:n]))
        value = value + _own_losses(outputs)
        if rule is None:
            return value
        if rule == "concordance":
            return value, _evidence(heads, torch.stack(parts).squeeze(-1), at, died)
        scores = risk_set_scores(_score(rule), stacked[n:], log_risk[n:], at, died)
        return value, scores if rule in RULES else _evidence(heads, scores / len(rows))

    return objective


def discrete(target: Target, interval: np.ndarray, device: torch.device, rule: str | None = None) -> Objective:
    """The likelihood of discrete hazards; interval: int64 [row], where each row's time lies."""
    at, event = torch.from_numpy(interval).to(device), torch.from_numpy(target.event).to(device)
    time = torch.from_numpy(target.time).to(device)
    rule = "concordance" if rule == BY_TASK else rule
    _check(rule, "discrete", (*CLASS_RULES, *CONFIDENCES))

    def evidence_of_risks(heads, parts, rows):
        return _evidence(heads, torch.stack([_discrete_risk(part) for part in parts]), time[rows], event[rows])

    return _of_rows(
        lambda outputs, rows: losses.discrete_survival_loss(outputs, at[rows], event[rows]),
        lambda outputs, rows: losses.discrete_log_likelihood(outputs, at[rows], event[rows]),
        rule,
        evidence_of_risks,
    )


def classes(target: Target, weight: np.ndarray, device: torch.device, rule: str | None = None) -> Objective:
    """Cross-entropy, weighted by class: weight [class]."""
    label = torch.from_numpy(target.label).to(device)
    of_class = torch.tensor(weight, dtype=torch.float32).to(device)
    rule = "likelihood" if rule == BY_TASK else rule
    _check(rule, "cross_entropy", (*CLASS_RULES, "likelihood"))
    return _of_rows(
        lambda outputs, rows: losses.cross_entropy(outputs, label[rows], of_class),
        lambda outputs, rows: losses.class_log_likelihood(outputs, label[rows]),
        rule,
    )


def _of_rows(
    loss: Callable, log_likelihood: Callable, rule: str | None, evidence_of_risks: Callable | None = None
) -> Objective:
    """A loss that is a mean over rows, and the log likelihood [row] that each part alone gives to what was seen."""

    def objective(outputs, rows):
        heads = _heads(outputs)
        value = sum(loss(total_of(head), rows) for head in heads.values()) + _own_losses(outputs)
        if rule is None:
            return value
        parts = _parts(heads, rule)
        if rule == "concordance":
            return value, evidence_of_risks(heads, parts, rows)
        scores = likelihood_scores(_score(rule), torch.stack([log_likelihood(part, rows) for part in parts]))
        return value, scores if rule in RULES else _evidence(heads, scores / len(rows))

    return objective


def _check(rule: str | None, loss: str, known: Collection[str]) -> None:
    if rule is None or rule in known:
        return
    if rule in CONFIDENCES:
        raise InputError(
            f"training: modulation: confidence: {rule!r} needs times of survival; with {loss} choose likelihood"
        )
    raise InputError(
        f"training: modulation: rule: {rule!r} needs the risk sets of Cox's loss; "
        f"with {loss} choose {' or '.join(CLASS_RULES)}"
    )


def _heads(outputs: Tensor | Output) -> dict[str, Tensor | Output]:
    return outputs.supervised() if isinstance(outputs, Output) else {"": outputs}


def _own_losses(outputs: Tensor | Output) -> Tensor | float:
    return sum(outputs.losses.values()) if isinstance(outputs, Output) else 0.0


def _parts(heads: dict[str, Output], rule: str | None) -> list[Tensor]:
    """The parts of every head in turn, without gradient; none without a rule."""
    if rule is None:
        return []
    if rule in RULES and len(heads) > 1:
        raise InputError(
            f"training: modulation: kind: balance: judges one output, the model has the heads {', '.join(heads)}; "
            "leave the key out, or take kind: coordination"
        )
    for name, head in heads.items():
        if len(head.parts) != 2:
            of = f"head {name!r}" if name else "output"
            raise InputError(
                f"training: modulation: the model's {of} is the sum of {len(head.parts)} parts, not of two branches; "
                "leave the key out"
            )
    return [part.detach() for head in heads.values() for part in head.parts.values()]


def _discrete_risk(logits: Tensor) -> Tensor:
    """−Σ_k S_k [batch] of logits [batch, interval]: `Head.risk` on the device."""
    return -torch.cumprod(1 - torch.sigmoid(logits), dim=1).sum(1)


def _score(rule: str) -> str:
    """The rule of `balance` that a likelihood is the score of."""
    return "softmax_sum" if rule == "likelihood" else rule


def _evidence(heads: dict[str, Output], of_parts: Tensor, *outcome: Tensor) -> Evidence:
    """of_parts: [head · 2, …]; outcome: time and event [batch] where these are risks."""
    branches = tuple(next(iter(heads.values())).parts)
    return Evidence(tuple(heads), branches, of_parts.reshape(len(heads), 2, *of_parts.shape[1:]), *outcome)

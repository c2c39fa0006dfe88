"""The three losses of the papers: Cox partial likelihood, discrete-time survival likelihood, weighted cross-entropy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def cox_loss(
    log_hazard: Tensor, time: Tensor, event: Tensor, ties: str = "breslow", normaliser: str = "batch"
) -> Tensor:
    """Negative Cox partial log likelihood, the risk sets being those of the rows given (batch or whole cohort).

        −(1/N) Σ_{i: event} [ θ_i − log Σ_{j: t_j ≥ t_i} exp θ_j ]                              (Breslow)

    With Efron's rule the l-th of d tied events (l = 0 … d − 1) leaves out l/d of the tied events' own hazard. Never
    forms exp θ unshifted; memory grows as batch².

    Args:
        log_hazard: [batch]; time: [batch], any unit; event: [batch], 1 = died.
        ties: "breslow" (as Pathomic Fusion) or "efron".
        normaliser: N = "batch" (all rows, as Pathomic Fusion) or "events".
    Returns: scalar; 0, still attached to the graph, for a batch without events.
    """
    return cox_loss_at(log_hazard, log_at_risk(log_hazard, time), time, event, ties, normaliser)


def log_at_risk(scores: Tensor, time: Tensor) -> Tensor:
    """log Σ_{j: t_j ≥ t_i} exp s_j for every row i: the risk sets that Cox's loss and a branch's score have in common.

    Args: scores: [..., batch]; time: [batch]. Returns: [..., batch].
    """
    at_risk = time.unsqueeze(0) >= time.unsqueeze(1)
    return torch.logsumexp(scores.unsqueeze(-2).masked_fill(~at_risk, -torch.inf), dim=-1)


def cox_loss_at(
    log_hazard: Tensor, log_risk: Tensor, time: Tensor, event: Tensor, ties: str = "breslow", normaliser: str = "batch"
) -> Tensor:
    """`cox_loss`, where `log_risk` is `log_at_risk` of the same rows. Nothing waits for the device."""
    if ties not in {"breslow", "efron"} or normaliser not in {"batch", "events"}:
        raise ValueError(f"cox_loss: unknown ties {ties!r} or normaliser {normaliser!r}")
    event = event.bool()
    if ties == "efron":
        both_died = event.unsqueeze(0) & event.unsqueeze(1) & (time.unsqueeze(0) == time.unsqueeze(1))
        # The censored stand alone: with themselves in the sum its gradient stays finite, and none of it is left out.
        tied = both_died | torch.eye(len(time), dtype=torch.bool, device=time.device)
        left_out = torch.tril(both_died, diagonal=-1).sum(1).to(log_hazard.dtype) / tied.sum(1)
        tied_hazard = torch.logsumexp(log_hazard.unsqueeze(0).masked_fill(~tied, -torch.inf), dim=1)
        log_risk = log_risk + torch.log1p(-left_out * torch.exp(tied_hazard - log_risk))
    total = torch.where(event, log_risk - log_hazard, 0).sum()
    return total / (len(time) if normaliser == "batch" else event.sum().clamp(min=1))


def discrete_survival_loss(logits: Tensor, interval: Tensor, event: Tensor) -> Tensor:
    """Negative of `discrete_log_likelihood`, mean over the batch."""
    return -discrete_log_likelihood(logits, interval, event).mean()


def discrete_log_likelihood(logits: Tensor, interval: Tensor, event: Tensor) -> Tensor:
    """Log likelihood [batch] of discrete hazards h = sigmoid(logits).

    With S_k = Π_{j≤k} (1 − h_j) and S_{−1} = 1, a death in interval y contributes ln S_{y−1} + ln h_y and a
    censoring ln S_y. Probabilities are clamped at 1e-7, as in the published code.

    Args:
        logits: [batch, interval]; interval: int64 [batch]; event: [batch], 1 = died.
    """
    hazard = torch.sigmoid(logits)
    survival = torch.cumprod(1 - hazard, dim=1)
    before = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], dim=1)

    def log_at(values: Tensor) -> Tensor:
        return torch.log(values.gather(1, interval.unsqueeze(1)).squeeze(1).clamp(min=1e-7))

    return event * (log_at(before) + log_at(hazard)) + (1 - event) * log_at(survival)


def class_weights(label: np.ndarray, classes: int) -> np.ndarray:
    """Inverse frequency of each class in the training part, relative to the most frequent one (weight 1).

    A class without a training case has weight 0: nothing can be learnt of it.
    """
    count = np.bincount(label, minlength=classes).astype(float)
    return np.divide(count.max(), count, out=np.zeros(classes), where=count > 0)


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Class-weighted cross-entropy with the weight-normalised mean: [batch, class], int64 [batch] → scalar."""
    return F.cross_entropy(logits, label, weight=weight)


def class_log_likelihood(logits: Tensor, label: Tensor) -> Tensor:
    """Log probability [batch] of the true class."""
    return -F.cross_entropy(logits, label, reduction="none")

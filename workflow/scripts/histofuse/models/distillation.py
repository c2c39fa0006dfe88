"""What a student of slides alone learns of a teacher that also saw genes: its outputs and its features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from histofuse.io import InputError

LOGITS = ("softmax", "hazards")
MATCHINGS = ("free", "ordered")


def divergence(student: Tensor, teacher: Tensor, temperature: float, kind: str = "softmax") -> Tensor:
    """T² · KL(teacher ‖ student) of logits [batch, outputs] divided by T, mean over the batch (Hinton et al., 2015).

    kind: "softmax" over classes, or "hazards": the outputs are log odds of independent events (death in an interval
    that was reached), and the divergences of these are added up. As published, survival too takes the softmax.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if kind == "softmax":
        log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
        each = (log_p.exp() * (log_p - log_q)).sum(1)
    else:
        happens = F.logsigmoid(teacher).exp() * (F.logsigmoid(teacher) - F.logsigmoid(student))
        not_so = F.logsigmoid(-teacher).exp() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
        each = (happens + not_so).sum(1)
    return temperature**2 * each.mean()


def feature_distance(tokens: Tensor, features: Tensor, matching: str = "free") -> Tensor:
    """Mean squared difference of two tokens [batch, 2, width] and a teacher's [batch, 2 · width], tumour first.

    matching: "free" takes for each sample the better of the two orders, as which cluster's token comes first says
    nothing of what it is; "ordered" the one order they stand in (as published, and right for learned queries).
    """
    if tokens.shape[1] != 2 or features.shape[1] != 2 * tokens.shape[2]:
        raise InputError(
            f"params: {tokens.shape[1]} tokens of width {tokens.shape[2]} cannot be compared to a teacher's "
            f"{features.shape[1]} features; take tokens: 2 and the teacher's width, or features_weight: 0"
        )
    teacher, tokens = features.float().view_as(tokens), tokens.float()
    distance = (tokens - teacher).square().mean((1, 2))
    if matching == "free":
        distance = torch.minimum(distance, (tokens.flip(1) - teacher).square().mean((1, 2)))
    return distance.mean()

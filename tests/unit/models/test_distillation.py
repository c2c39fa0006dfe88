"""Divergence from a teacher's outputs and features against the definitions, and the order of two tokens."""

import pytest
import torch
from scipy.special import rel_entr

from histofuse.io import InputError
from histofuse.models.distillation import divergence, feature_distance


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_softmax_divergence_is_the_relative_entropy_of_softened_classes():
    student, teacher = random(5, 4), random(5, 4, seed=1)
    p, q = (torch.softmax(logits.double() / 2, 1).numpy() for logits in (teacher, student))
    assert divergence(student, teacher, 2.0).item() == pytest.approx(4 * rel_entr(p, q).sum(1).mean(), rel=1e-5)


def test_hazard_divergence_is_the_sum_over_intervals_of_that_of_coins():
    student, teacher = random(5, 4), random(5, 4, seed=1)
    p, q = (torch.sigmoid(logits.double() / 2).numpy() for logits in (teacher, student))
    expected = 4 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(1).mean()
    assert divergence(student, teacher, 2.0, "hazards").item() == pytest.approx(expected, rel=1e-5)


def test_a_shift_of_all_logits_is_seen_in_hazards_but_not_in_classes():
    teacher = random(5, 4)
    assert divergence(teacher + 1, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert divergence(teacher + 1, teacher, 2.0, "hazards").item() > 0.1
    assert divergence(teacher, teacher, 2.0, "hazards").item() == pytest.approx(0, abs=1e-6)
    assert divergence(torch.full((1, 2), 200.0), torch.full((1, 2), -200.0), 1.0, "hazards").isfinite()


def test_tokens_may_come_in_either_order_unless_the_order_means_something():
    teacher = random(2, 2, 3)
    tokens = torch.stack([teacher[0], teacher[1].flip(0)]) + 0.1
    features = teacher.flatten(1)
    assert feature_distance(tokens, features).item() == pytest.approx(0.01, rel=1e-4)
    as_they_stand = (tokens - teacher).square().mean().item()
    assert as_they_stand > 0.1
    assert feature_distance(tokens, features, "ordered").item() == pytest.approx(as_they_stand, rel=1e-5)


@pytest.mark.parametrize(("tokens", "features"), [((2, 3, 4), (2, 12)), ((2, 2, 4), (2, 6))])
def test_tokens_that_cannot_be_compared_are_refused(tokens, features):
    with pytest.raises(InputError, match=r"cannot be compared to a teacher's \d+ features; take tokens: 2"):
        feature_distance(torch.zeros(tokens), torch.zeros(features))

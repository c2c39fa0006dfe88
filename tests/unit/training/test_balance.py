"""Balanced training: the scores of two branches, their ratios and the coefficients made of them."""

import numpy as np
import pytest
import torch

from histofuse.training.balance import RULES, coefficients, likelihood_scores, ratios, risk_set_scores
from histofuse.training.losses import log_at_risk

SHIFT_INVARIANT = ("softmax_sum", "lift", "log_mean")


@pytest.fixture
def cohort():
    """Parts [2, 24] of two branches, times with ties and events, in double precision."""
    rng = np.random.default_rng(3)
    time, event = rng.integers(1, 10, 24).astype(float), rng.integers(0, 2, 24)
    return torch.tensor(rng.normal(size=(2, 24))), torch.tensor(time), torch.tensor(event)


def rho_of(rule, parts, time, event):
    return ratios(risk_set_scores(rule, parts, log_at_risk(parts, time), time, event))


def by_hand(rule, parts, time, event):
    """ρ of the first branch by loops over events, risk sets of tied times being those of Breslow."""
    terms = []
    for i in np.flatnonzero(event):
        at_risk = time >= time[i]
        sums = np.exp(parts[:, at_risk]).sum(1)
        if rule.startswith("literal"):
            terms.append(parts[:, i] / sums)
        elif at_risk.sum() > 1:
            terms.append(np.exp(parts[:, i]) / sums * (at_risk.sum() if rule == "lift" else 1))
    terms = np.array(terms)
    if rule == "log_mean":
        return np.exp(np.log(terms).mean(0) @ [1, -1])
    if rule == "literal_mean":
        return (terms[:, 0] / terms[:, 1]).mean()
    return terms[:, 0].sum() / terms[:, 1].sum()


@pytest.mark.parametrize("rule", RULES)
def test_ratios_equal_loops_over_risk_sets(rule, cohort):
    rho = rho_of(rule, *cohort)
    assert rho[0].item() == pytest.approx(by_hand(rule, *(values.numpy() for values in cohort)), rel=1e-10)
    assert rho[0].item() * rho[1].item() == pytest.approx(1)


@pytest.mark.parametrize("rule", RULES)
def test_equal_branches_are_left_alone(rule, cohort):
    parts, time, event = cohort
    rho = rho_of(rule, parts[:1].expand(2, -1), time, event)
    torch.testing.assert_close(rho, torch.ones_like(rho))
    torch.testing.assert_close(coefficients(rho), torch.ones_like(rho))


@pytest.mark.parametrize("rule", RULES)
def test_a_constant_changes_the_literal_scores_only(rule, cohort):
    parts, time, event = cohort
    moved = rho_of(rule, parts + torch.tensor([[5.0], [-2.0]]), time, event)
    assert torch.allclose(moved, rho_of(rule, parts, time, event)) == (rule in SHIFT_INVARIANT)


def test_literal_ratios_can_be_negative_and_then_slow_nobody():
    time, event = torch.tensor([1.0, 2, 3]), torch.tensor([1, 0, 0])
    rho = rho_of("literal_sum", torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]), time, event)
    assert (rho < 0).all()
    assert coefficients(rho).tolist() == [1, 1]


def test_a_constant_part_has_the_chance_of_a_draw_from_the_risk_set():
    """Events at 1 and 2 of four: 1/4 and 1/3; a lift of one each. The last event is alone at risk and not counted."""
    parts, time, event = torch.full((2, 4), 7.0), torch.tensor([1.0, 2, 3, 4]), torch.tensor([1, 1, 0, 1])
    log_risk = log_at_risk(parts, time)
    assert risk_set_scores("softmax_sum", parts, log_risk, time, event).tolist() == pytest.approx([7 / 12] * 2)
    assert risk_set_scores("lift", parts, log_risk, time, event).tolist() == pytest.approx([2, 2])
    log_mean = risk_set_scores("log_mean", parts, log_risk, time, event)
    assert log_mean.tolist() == pytest.approx([12**-0.5] * 2)


def test_tied_times_stay_in_the_risk_set():
    time, event = torch.tensor([2.0, 2, 5]), torch.tensor([1, 1, 0])
    torch.testing.assert_close(log_at_risk(torch.zeros(3), time).exp(), torch.tensor([3.0, 3, 1]))
    scores = risk_set_scores("softmax_sum", torch.zeros(2, 3), log_at_risk(torch.zeros(2, 3), time), time, event)
    assert scores.tolist() == pytest.approx([2 / 3] * 2)


@pytest.mark.parametrize("rule", RULES)
def test_order_of_rows_does_not_matter(rule, cohort):
    parts, time, event = cohort
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        rho_of(rule, parts[:, order], time[order], event[order]), rho_of(rule, parts, time, event)
    )


def test_coefficients_are_those_of_the_paper():
    rho = torch.tensor([2.0, 0.5])
    assert coefficients(rho).tolist() == pytest.approx([1 - np.tanh(1), 1])
    assert coefficients(rho, alpha=0.5).tolist() == pytest.approx([1 - np.tanh(0.5), 1])
    many = torch.linspace(-3, 30, 200)
    k = coefficients(torch.stack([many, 1 / many]))
    assert ((k > 0) | (many > 9)).all()
    assert (k <= 1).all()
    assert (k[:, many > 0] < 1).sum(0).max() == 1  # at most one branch is slowed


def test_scores_of_classes_are_the_chances_of_the_true_one():
    log_p = torch.log(torch.tensor([[0.5, 0.25], [0.125, 0.5]]))
    assert likelihood_scores("softmax_sum", log_p).tolist() == pytest.approx([0.75, 0.625])
    assert likelihood_scores("log_mean", log_p).tolist() == pytest.approx([0.125**0.5, 0.0625**0.5])


def test_without_events_scores_say_nothing():
    for rule in RULES:
        parts, time = torch.randn(2, 6), torch.arange(6.0)
        rho = rho_of(rule, parts, time, torch.zeros(6, dtype=torch.int64))
        assert not torch.isfinite(rho).all()

"""Losses against lifelines, textbook sums in float64, hand-worked cases and finite differences."""

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

from histofuse.training.losses import class_weights, cox_loss, cross_entropy, discrete_survival_loss


def textbook_cox(theta, time, event, ties):
    """−log partial likelihood by plain loops over distinct death times."""
    total = 0.0
    for t in np.unique(time[event == 1]):
        died = theta[(time == t) & (event == 1)]
        risk = np.exp(theta[time >= t]).sum()
        for k in range(len(died)):
            left_out = k / len(died) * np.exp(died).sum() if ties == "efron" else 0.0
            total += np.log(risk - left_out) - died[k]
    return total


@pytest.fixture
def cohort():
    rng = np.random.default_rng(7)
    return rng.normal(size=40), rng.integers(1, 12, 40).astype(float), rng.integers(0, 2, 40)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
@pytest.mark.parametrize("normaliser", ["batch", "events"])
def test_cox_equals_the_textbook_sum(cohort, ties, normaliser):
    theta, time, event = cohort
    loss = cox_loss(torch.tensor(theta), torch.tensor(time), torch.tensor(event), ties, normaliser)
    n = len(time) if normaliser == "batch" else event.sum()
    assert loss.item() == pytest.approx(textbook_cox(theta, time, event, ties) / n, rel=1e-12)


def test_cox_equals_the_partial_likelihood_of_lifelines(cohort):
    theta, time, event = cohort
    fit = CoxPHFitter().fit(pd.DataFrame({"x": theta, "time": time, "event": event}), "time", "event")
    ours = cox_loss(torch.tensor(theta * fit.params_["x"]), torch.tensor(time), torch.tensor(event), "efron")
    assert -ours.item() * len(time) == pytest.approx(fit.log_likelihood_, rel=1e-9)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_cox_gradient(cohort, ties):
    theta, time, event = cohort
    theta = torch.tensor(theta, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: cox_loss(t, torch.tensor(time), torch.tensor(event), ties), theta)
    cox_loss(theta, torch.tensor(time), torch.tensor(event), ties).backward()
    assert theta.grad.sum().item() == pytest.approx(0, abs=1e-12)  # invariant to a constant


def test_cox_survives_huge_hazards_and_follows_permutations(cohort):
    theta, time, event = map(torch.tensor, cohort)
    assert torch.isfinite(cox_loss(1e4 * theta, time, event, "efron"))
    order = torch.randperm(40)
    torch.testing.assert_close(cox_loss(theta[order], time[order], event[order]), cox_loss(theta, time, event))


def test_cox_without_events_is_zero_and_keeps_the_graph():
    theta = torch.randn(5, requires_grad=True)
    loss = cox_loss(theta, torch.arange(5.0), torch.zeros(5))
    loss.backward()
    assert loss.item() == 0
    assert not theta.grad.any()


def test_cox_by_hand():
    """Deaths at 1 and 2, one censored at 3, all log hazards 0: (ln 3 + ln 2) / 3."""
    loss = cox_loss(torch.zeros(3), torch.tensor([1.0, 2, 3]), torch.tensor([1, 1, 0]))
    assert loss.item() == pytest.approx((np.log(3) + np.log(2)) / 3, rel=1e-6)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="unknown ties 'exact'"):
        cox_loss(torch.zeros(2), torch.ones(2), torch.ones(2), ties="exact")


def test_discrete_loss_by_hand():
    """Four intervals with hazards ½: death in the third −ln ½³, censoring in the second −ln ½², mean of both."""
    logits = torch.zeros(2, 4)
    loss = discrete_survival_loss(logits, torch.tensor([2, 1]), torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((3 * np.log(2) + 2 * np.log(2)) / 2, rel=1e-6)


def test_discrete_loss_is_the_log_likelihood():
    """Unequal hazards, against the product written out; the first interval has nothing to survive before it."""
    h = np.array([0.1, 0.3, 0.6, 0.2])
    logits = torch.tensor(np.log(h / (1 - h))).expand(3, 4)
    expected = -(np.log(0.1) + np.log(0.9 * 0.7 * 0.6) + np.log(0.9 * 0.7 * 0.4 * 0.8)) / 3
    loss = discrete_survival_loss(logits, torch.tensor([0, 2, 3]), torch.tensor([1, 1, 0]))
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    free = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: discrete_survival_loss(x, torch.tensor([0, 2, 3]), torch.tensor([1, 1, 0])), free
    )


def test_class_weights_are_inverse_frequencies():
    label = np.repeat([0, 1, 2, 3], [1195, 288, 409, 495])  # the counts behind the published weights
    np.testing.assert_allclose(class_weights(label, 4), [1, 4.15, 2.92, 2.41], atol=0.005)
    assert class_weights(np.array([0, 0, 2]), 3).tolist() == [1, 0, 2]


def test_weighted_cross_entropy_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.3], [0.4, 0.6]]))
    weight = torch.tensor([1.0, 3.0])
    expected = -(1 * np.log(0.7) + 3 * np.log(0.6)) / 4
    assert cross_entropy(logits, torch.tensor([0, 1]), weight).item() == pytest.approx(expected, rel=1e-6)

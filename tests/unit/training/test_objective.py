"""What a step minimises: totals, heads and the model's own losses; and by what its two branches are judged."""

import numpy as np
import pytest
import torch
from branch_examples import Two, forward, head_of, two_branch_split

from histofuse.io import InputError
from histofuse.models.output import Output
from histofuse.training import objective
from histofuse.training.balance import risk_set_scores
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head
from histofuse.training.losses import log_at_risk

CPU = torch.device("cpu")
LOSSES = ["cox", "discrete", "cross_entropy"]


@pytest.fixture
def split():
    return two_branch_split()


def make(split, loss, rule=None):
    """The objective of a loss on the split; classes are four, discrete intervals too."""
    number = np.arange(80) % 4
    if loss == "cox":
        return objective.cox(split.target, CPU, rule)
    if loss == "discrete":
        return objective.discrete(split.target, number, CPU, rule)
    target = Target("classification", np.zeros(0), np.zeros(0), number, 4)
    return objective.classes(target, np.array([1.0, 2, 1, 3]), CPU, rule)


def outputs_of(split, loss, seed=0, rows=40):
    torch.manual_seed(seed)
    model = Two(outputs=1 if loss == "cox" else 4)
    return forward(split, model if loss == "cross_entropy" else model.double(), torch.arange(rows))


def two_heads(split, loss):
    low, high = outputs_of(split, loss), outputs_of(split, loss, seed=1)
    return low, high, Output(low.total + high.total, heads={"10x": low, "20x": high})


# What is minimised ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_that_of_all_heads_and_the_models_own(split, loss):
    low, high, both = two_heads(split, loss)
    rows, of = torch.arange(40), make(split, loss)
    torch.testing.assert_close(of(both, rows), of(low.total, rows) + of(high.total, rows))
    own = {"geometry": torch.tensor(0.25), "consistency": torch.tensor(0.5)}
    torch.testing.assert_close(of(Output(low.total, losses=own), rows), of(low.total, rows) + 0.75)
    torch.testing.assert_close(of(Output(both.total, heads=both.heads, losses=own), rows), of(both, rows) + 0.75)


@pytest.mark.parametrize("rule", ["likelihood", "concordance"])
@pytest.mark.parametrize("loss", ["cox", "discrete"])
def test_judging_heads_leaves_their_loss_alone_and_takes_no_gradient(split, loss, rule):
    _, _, both = two_heads(split, loss)
    rows = torch.arange(40)
    value, evidence = make(split, loss, rule)(both, rows)
    torch.testing.assert_close(value, make(split, loss)(both, rows))
    assert not evidence.values.requires_grad


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_the_loss_is_the_same_with_scores_and_they_have_no_gradient(split, ties):
    model, rows, head = Two().double(), torch.arange(40), head_of(split, ties=ties)
    outputs = forward(split, model, rows)
    value, scores = head.torch_loss(split, "softmax_sum")(outputs, rows)
    torch.testing.assert_close(value, head.torch_loss(split)(outputs, rows))
    assert not scores.requires_grad
    time, event = (torch.tensor(values)[rows] for values in (split.target.time, split.target.event))
    parts = torch.stack([part.detach().squeeze(1) for part in outputs.parts.values()])
    torch.testing.assert_close(scores, risk_set_scores("softmax_sum", parts, log_at_risk(parts, time), time, event))


def test_gradient_of_the_loss_with_scores(split):
    """Against finite differences; it adds up to 0 over rows, so that the bias gets none."""
    model, rows, loss = Two().double(), torch.arange(12), head_of(split).torch_loss(split, "softmax_sum")

    def of_total(total):
        return loss(Output(total, {"genomic": total / 2, "image": total / 2}), rows)[0]

    total = forward(split, model, rows).total.detach().requires_grad_()
    assert torch.autograd.gradcheck(of_total, total)
    of_total(total).backward()
    assert total.grad.sum().item() == pytest.approx(0, abs=1e-12)
    loss(forward(split, model, rows), rows)[0].backward()
    assert model.bias.grad.item() == pytest.approx(0, abs=1e-12)


# Scores for balanced training ----------------------------------------------------------------------------------------


def test_scores_of_discrete_hazards_and_classes(split):
    rows = torch.arange(40)
    model = Two(outputs=4)
    head = head_of(split, name="discrete", intervals=4)
    outputs = forward(split, model, rows)
    value, scores = head.torch_loss(split, "log_mean")(outputs, rows)
    torch.testing.assert_close(value, head.torch_loss(split)(outputs.total, rows))
    loss_of_part = head.torch_loss(split)(outputs.parts["image"], rows)
    assert scores[1].item() == pytest.approx(np.exp(-loss_of_part.item()))
    target = Target("classification", np.zeros(0), np.zeros(0), np.arange(80) % 4, 4)
    graded = Split(split.rows, target, split.blocks)
    value, scores = Head(target, {"name": "cross_entropy"}).torch_loss(graded, "softmax_sum")(outputs, rows)
    p = torch.softmax(outputs.parts["genomic"], 1)[rows, rows % 4]
    assert scores[0].item() == pytest.approx(p.sum().item())


@pytest.mark.parametrize("loss", LOSSES)
def test_heads_cannot_be_balanced(split, loss):
    _, _, both = two_heads(split, loss)
    with pytest.raises(InputError, match="kind: balance: judges one output, the model has the heads 10x, 20x"):
        make(split, loss, "softmax_sum")(both, torch.arange(40))


# Evidence for coordination -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "rule"), [(loss, "likelihood") for loss in LOSSES] + [("cross_entropy", "by_task")])
def test_likelihoods_of_branches(split, loss, rule):
    """Mean chance of what was seen; with Cox's loss its sum over deaths that are not alone at risk, per row."""
    low, high, both = two_heads(split, loss)
    rows = torch.arange(40)
    _, evidence = make(split, loss, rule)(both, rows)
    assert evidence.heads == ("10x", "20x")
    assert evidence.branches == ("genomic", "image")
    assert evidence.time is None
    expected = [[chance(split, loss, part.detach()) for part in head.parts.values()] for head in (low, high)]
    torch.testing.assert_close(evidence.values, torch.tensor(expected).to(evidence.values))


def chance(split, loss, part):
    part, rows, number = part.numpy(), np.arange(40), np.arange(40) % 4
    time, event = split.target.time[:40], split.target.event[:40]
    if loss == "cox":
        hazard = np.exp(part[:, 0])
        sets = [(i, time >= time[i]) for i in np.flatnonzero(event)]
        return sum(hazard[i] / hazard[at].sum() for i, at in sets if at.sum() > 1) / 40
    if loss == "cross_entropy":
        return (np.exp(part) / np.exp(part).sum(1, keepdims=True))[rows, number].mean()
    hazard = 1 / (1 + np.exp(-part))
    survival = np.cumprod(np.c_[np.ones(40), 1 - hazard], axis=1)
    return np.where(event, survival[rows, number] * hazard[rows, number], survival[rows, number + 1]).mean()


@pytest.mark.parametrize("rule", ["concordance", "by_task"])
@pytest.mark.parametrize("loss", ["cox", "discrete"])
def test_risks_of_branches(split, loss, rule):
    """As the run's head has them: the log hazard, −Σ S_k of discrete hazards; with time and event of the rows."""
    low, high, both = two_heads(split, loss)
    rows = torch.arange(40).flip(0)
    _, evidence = make(split, loss, rule)(both, rows)
    of_run = head_of(split, name=loss)
    expected = [[of_run.risk(part.detach().numpy()) for part in head.parts.values()] for head in (low, high)]
    np.testing.assert_allclose(evidence.values, expected)
    np.testing.assert_array_equal(evidence.time, split.target.time[rows])
    np.testing.assert_array_equal(evidence.event, split.target.event[rows])


def test_without_heads_there_is_one_without_a_name(split):
    _, evidence = make(split, "cox", "concordance")(outputs_of(split, "cox"), torch.arange(40))
    assert evidence.heads == ("",)
    assert evidence.values.shape == (1, 2, 40)


@pytest.mark.parametrize(
    ("loss", "rule", "message"),
    [
        (
            "cross_entropy",
            "concordance",
            "confidence: 'concordance' needs times of survival; with cross_entropy choose",
        ),
        (
            "discrete",
            "lift",
            "rule: 'lift' needs the risk sets of Cox's loss; with discrete choose softmax_sum or log_",
        ),
        ("cross_entropy", "literal_sum", "rule: 'literal_sum' needs the risk sets of Cox's loss; with cross_entropy"),
    ],
)
def test_rules_that_do_not_fit_the_loss_are_refused(split, loss, rule, message):
    with pytest.raises(InputError, match=message):
        make(split, loss, rule)


@pytest.mark.parametrize("rule", ["softmax_sum", "likelihood"])
def test_an_output_that_is_not_the_sum_of_two_parts_is_refused(split, rule):
    total = torch.zeros(40, 1)
    three = Output(total, {name: total for name in "abc"})
    with pytest.raises(InputError, match="output is the sum of 3 parts, not of two branches"):
        make(split, "cox", rule)(three, torch.arange(40))
    with pytest.raises(InputError, match="head '10x' is the sum of 0 parts, not of two branches"):
        make(split, "cox", "likelihood")(Output(total, heads={"10x": Output(total)}), torch.arange(40))


def test_validation_ranks_the_classes_of_the_rows_it_is_given(split):
    """Of rows in another order than the split's: the AUC of outputs that are right is 1, of their opposite 0."""
    label = np.arange(80) % 3
    target = Target("classification", np.zeros(0), np.zeros(0), label, 3)
    head, rows = Head(target, {"name": "cross_entropy"}), np.arange(20)[::-1] + 40
    criterion = head.criterion(Split(split.rows, target, split.blocks))
    right = np.eye(3)[label[rows]] * 4
    assert criterion(right, rows) == 1
    assert criterion(-right, rows) == 0

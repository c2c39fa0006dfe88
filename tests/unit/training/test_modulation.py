"""Balanced training: the scores and coefficients of two branches, and what the loop does with them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.output import Output
from histofuse.models.snn import SNN
from histofuse.training import loop
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head
from histofuse.training.loop import Settings, fit
from histofuse.training.losses import log_at_risk
from histofuse.training.balance import (
    RULES,
    Balance,
    coefficients,
    likelihood_scores,
    ratios,
    risk_set_scores,
)
from histofuse.training.run import Job, run

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


# The loss with scores ------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two linear branches and their sum."""

    def __init__(self, outputs=1, features=5):
        super().__init__()
        self.genes, self.image = nn.Linear(features, outputs, bias=False), nn.Linear(features, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, batch):
        parts = {"genomic": self.genes(batch["genes"]), "image": self.image(batch["image"])}
        parts = {name: part + self.bias / 2 for name, part in parts.items()}
        return Output(parts["genomic"] + parts["image"], parts)

    def branches(self):
        return {"genomic": [self.genes.weight], "image": [self.image.weight]}


@pytest.fixture
def split():
    """Both branches see the risk; the genes much more clearly."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 80, 5)).astype(np.float32)
    time, event = rng.exponential(np.exp(-2 * x[:, 0] - 0.5 * y[:, 0])), (rng.random(80) < 0.8).astype(np.int64)
    rows = pd.DataFrame({"case_id": [f"C{k}" for k in range(80)], "part": ["train"] * 64 + ["test"] * 16})
    return Split(rows, Target("survival", time, event, np.zeros(0, int)), {"genes": x, "image": y})


def head_of(split, **loss):
    return Head(split.target, {"name": "cox"} | loss)


def forward(split, model, rows):
    return model({name: torch.tensor(values)[rows].to(model.bias.dtype) for name, values in split.blocks.items()})


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_the_loss_is_the_same_with_scores_and_they_have_no_gradient(split, ties):
    model, rows, head = Two().double(), torch.arange(40), head_of(split, ties=ties)
    outputs = forward(split, model, rows)
    value, scores = head.torch_loss(split, "softmax_sum")(outputs, rows)
    torch.testing.assert_close(value, head.torch_loss(split)(outputs, rows))
    assert not scores.requires_grad
    time, event = (torch.tensor(values)[rows] for values in (split.target.time, split.target.event))
    parts = torch.stack([part.detach().squeeze(1) for part in outputs.parts.values()])
    torch.testing.assert_close(ratios(scores), rho_of("softmax_sum", parts, time, event))


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


def test_rules_of_risk_sets_are_refused_for_other_losses(split):
    with pytest.raises(InputError, match="rule: 'lift' needs the risk sets of Cox's loss; with discrete choose"):
        head_of(split, name="discrete").torch_loss(split, "lift")


# Applied -------------------------------------------------------------------------------------------------------------


def one_step(scores, optimiser="sgd", steps=1, **options):
    """Changes {group: of its parameter} by steps with gradient 1 and learning rate 0.1, and the modulation."""
    torch.manual_seed(0)
    values = {name: nn.Parameter(torch.full((3,), 2.0)) for name in ("genomic", "image", "")}
    groups = [{"params": [value], "branch": name, "initial_lr": 0.1} for name, value in values.items()]
    settings = Settings(epochs=2, lr=0.1, optimiser=optimiser, modulation={}, betas=(0.0, 0.999))
    optimiser = settings.optimiser_for(groups)
    modulation = Balance({name: [values[name]] for name in ("genomic", "image")}, **options)
    modulation.start_epoch(0, optimiser)
    for _ in range(steps):
        for value in values.values():
            value.grad = torch.ones(3)
        modulation.before_step(torch.tensor(scores))
        optimiser.step()
    return {name: (value.detach() - 2)[0].item() for name, value in values.items()}, modulation


SLOW = 1 - np.tanh(1)  # of ρ = 2


@pytest.mark.parametrize("apply", ["learning_rate", "gradient"])
def test_the_leading_branch_is_slowed_and_nothing_else(apply):
    change, _ = one_step([2.0, 1.0], apply=apply)
    assert change == pytest.approx({"genomic": -0.1 * SLOW, "image": -0.1, "": -0.1}, rel=1e-5)


def test_adam_undoes_the_scaling_of_gradients_but_not_of_its_learning_rate():
    by_rate, _ = one_step([2.0, 1.0], "adam")
    by_gradient, _ = one_step([2.0, 1.0], "adam", apply="gradient")
    assert by_rate == pytest.approx({"genomic": -0.1 * SLOW, "image": -0.1, "": -0.1}, rel=1e-5)
    assert by_gradient == pytest.approx(dict.fromkeys(("genomic", "image", ""), -0.1), rel=1e-5)


@pytest.mark.parametrize("options", [{"apply": "none"}, {"window": [1, 5]}])
def test_coefficients_can_be_logged_without_being_applied(options):
    change, modulation = one_step([2.0, 1.0], **options)
    assert change == pytest.approx(dict.fromkeys(("genomic", "image", ""), -0.1))
    assert modulation.end_epoch()["k_genomic"] == pytest.approx(SLOW)


@pytest.mark.parametrize("scores", [[0.0, 0.0], [np.nan, 1.0], [1.0, 0.0], [np.inf, 1.0]])
def test_a_step_that_says_nothing_is_not_modulated(scores):
    change, modulation = one_step(scores)
    assert change == pytest.approx(dict.fromkeys(("genomic", "image", ""), -0.1))
    log = modulation.end_epoch()
    assert [log["rho_genomic"], log["k_genomic"], log["k_image"]] == [1, 1, 1]


def test_without_events_scores_say_nothing():
    for rule in RULES:
        parts, time = torch.randn(2, 6), torch.arange(6.0)
        rho = rho_of(rule, parts, time, torch.zeros(6, dtype=torch.int64))
        assert not torch.isfinite(rho).all()


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_weight_decay_does_not_depend_on_the_coefficient(optimiser):
    without, _ = one_step([2.0, 1.0], optimiser)
    decayed, _ = one_step([2.0, 1.0], optimiser, weight_decay=0.5)
    for name, change in decayed.items():
        assert change - without[name] == pytest.approx(-2 * 0.1 * 0.5, rel=1e-5)


def test_averages_of_scores():
    _, modulation = one_step([2.0, 1.0], steps=2, ema=0.5)
    modulation.before_step(torch.tensor([1.0, 1.0]))
    rho = modulation.end_epoch()["rho_steps_genomic"]
    assert rho == pytest.approx([2, 2, (1.5 / 2 + 0.5) / (0.75 / 2 + 0.5)])


def test_noise_has_the_spread_of_the_gradient():
    value = {name: nn.Parameter(torch.zeros(20_000)) for name in ("a", "b")}
    modulation = Balance({name: [p] for name, p in value.items()}, apply="gradient", noise=True)
    optimiser = torch.optim.SGD([{"params": [p], "branch": name} for name, p in value.items()], lr=1.0)
    modulation.start_epoch(0, optimiser)
    torch.manual_seed(1)
    for p in value.values():
        p.grad = 3 * torch.randn(20_000) + 1
    before = {name: p.grad.clone() for name, p in value.items()}
    modulation.before_step(torch.tensor([2.0, 1.0]))
    for name, scale in (("a", SLOW), ("b", 1)):
        added = value[name].grad - scale * before[name]
        assert added.std().item() == pytest.approx(3, rel=0.05)
        assert added.mean().item() == pytest.approx(0, abs=0.1)


def test_what_is_logged():
    _, modulation = one_step([2.0, 1.0], steps=3)
    modulation.before_step(torch.tensor([1.0, 2.0]))
    log = modulation.end_epoch()
    assert log["rho_steps_genomic"] == pytest.approx([2, 2, 2, 0.5])
    assert log["rho_image"] == pytest.approx((3 * 0.5 + 2) / 4)
    assert log["ahead_genomic"] == 0.75
    assert log["k_steps_image"] == pytest.approx([1, 1, 1, SLOW])
    assert log["gradient_genomic"] == pytest.approx(3**0.5)


# In the loop ---------------------------------------------------------------------------------------------------------


def train(split, folder, build=Two, name="c.pt", head=None, **settings):
    head = head or head_of(split)
    settings = Settings(**({"epochs": 4, "lr": 0.05, "batch_size": 16, "modulation": {}} | settings))
    loss, criterion = head.torch_loss(split, settings.rule), head.criterion(split)
    return fit(build, split, loss, criterion, settings, 0, folder / name, "d")


def test_the_history_tells_which_branch_leads(split, tmp_path):
    _, history = train(split, tmp_path, epochs=8)
    last = history.iloc[-1]
    assert last["rho_genomic"] > 1 > last["k_genomic"]
    assert last["ahead_genomic"] > 0.5
    assert last["c_genomic"] > last["c_image"] > 0.5
    assert last["gradient_genomic"] > 0
    assert len(last["rho_steps_genomic"]) == len(last["k_steps_image"]) == 4


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("apply", ["learning_rate", "gradient"])
def test_an_interrupted_run_goes_on_to_the_same_bits(split, tmp_path, monkeypatch, optimiser, apply):
    settings = {"optimiser": optimiser, "weight_decay": 0.01, "clip_norm": 1.0}
    settings["modulation"] = {"apply": apply, "ema": 0.9, "noise": True}
    whole, history = train(split, tmp_path, name="whole.pt", **settings)
    monkeypatch.setattr(loop, "CHECKPOINT_PAUSE", 0)
    save = loop._save

    def save_then_die(*args):
        save(*args)
        if len(args[4]) == 2:
            raise Killed

    monkeypatch.setattr(loop, "_save", save_then_die)
    with pytest.raises(Killed):
        train(split, tmp_path, **settings)
    monkeypatch.setattr(loop, "_save", save)
    resumed, resumed_history = train(split, tmp_path, **settings)
    assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), resumed.parameters()))
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))


def test_a_coefficient_of_one_changes_nothing(split, tmp_path):
    """Only watched, a run takes the steps of one without modulation.

    By SGD: Adam makes whole steps of the bias's gradient, which is 0 but for rounding.
    """
    plain, _ = train(split, tmp_path, name="1.pt", optimiser="sgd", modulation=None)
    watched, _ = train(split, tmp_path, name="2.pt", optimiser="sgd", modulation={"apply": "none"})
    slowed, _ = train(split, tmp_path, name="3.pt", optimiser="sgd")
    for a, b in zip(plain.parameters(), watched.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert slowed.genes.weight.norm() < 0.9 * watched.genes.weight.norm()


def test_branches_have_learning_rates_and_can_wait(split, tmp_path):
    start, _ = train(split, tmp_path, name="0.pt", lr=1e-12)
    model, _ = train(split, tmp_path, name="1.pt", modulation=None, branch_lr={"image": 1e-12})
    torch.testing.assert_close(model.image.weight, start.image.weight)
    assert not torch.allclose(model.genes.weight, start.genes.weight)
    waited, _ = train(split, tmp_path, name="2.pt", modulation=None, frozen={"genomic": 4})
    torch.testing.assert_close(waited.genes.weight, start.genes.weight)
    by_gradient = {"modulation": {"apply": "gradient"}, "weight_decay": 0.1}
    later, history = train(split, tmp_path, name="3.pt", frozen={"genomic": 2}, **by_gradient)
    assert (history["gradient_genomic"] > 0).tolist() == [False, False, True, True]
    assert not torch.allclose(later.genes.weight, start.genes.weight)
    sparse, _ = train(split, tmp_path, name="4.pt", l1=1.0, l1_branch="image", modulation=None)
    assert sparse.image.weight.norm() < 0.5 * start.image.weight.norm()
    assert sparse.genes.weight.norm() > 2 * sparse.image.weight.norm()


def snn():
    return SNN({"genes": (5,), "image": (5,)}, 1)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (snn, {}, "training: modulation: two branches are needed, the model has none"),
        (Two, {"modulation": {"rule": "sum"}}, "modulation: rule: 'sum' is not one of softmax_sum"),
        (Two, {"modulation": {"apply": "lr"}}, "modulation: apply: 'lr' is not one of learning_rate"),
        (Two, {"optimiser": "adagrad"}, "modulation: is made for the optimisers sgd, adam and adamw, not for adagrad"),
        (Two, {"branch_lr": {"genes": 1.0}}, "branch_lr: the model has no branch 'genes'; it has genomic, image"),
        (snn, {"modulation": None, "frozen": {"image": 1}}, "frozen: the model has no branch 'image'; it has none"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(split, tmp_path, build, settings, message):
    with pytest.raises(InputError, match=message):
        train(split, tmp_path, build, **settings)


def test_a_model_whose_output_is_no_sum_is_refused(split, tmp_path):
    class Product(Two):
        def forward(self, batch):
            return super().forward(batch).total

    with pytest.raises(InputError, match="modulation: the output of Product is no sum of branches"):
        train(split, tmp_path, Product)


def test_a_run_is_modulated_as_its_entry_says(split, tmp_path):
    class Model(Two):
        def __init__(self, shapes, outputs):
            super().__init__(outputs, shapes["genes"][0])

    entry = {"training": {"epochs": 3, "lr": 0.05, "batch_size": 16, "modulation": {"rule": "lift"}}}
    result = run(Model, entry, {"kind": "survival"}, split, Job(1, 0, 1, tmp_path / "c.pt", "d"))
    assert {"rho_genomic", "k_image", "c_genomic", "gradient_image", "k_steps_genomic"} <= set(result.history)
    assert len(result.predictions) == 80
    assert np.isfinite(result.predictions["risk"]).all()

"""Balanced training: what its coefficients do to a step, and what is logged of it."""

import numpy as np
import pytest
import torch
from torch import nn

from histofuse.training.balance import Balance
from histofuse.training.loop import Settings


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

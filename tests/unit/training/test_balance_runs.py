"""Balanced training in the loop: whole runs of a model of two branches."""

import numpy as np
import pandas as pd
import pytest
import torch
from branch_examples import Two, train, two_branch_split
from killed_runs import kill_after

from histofuse.io import InputError
from histofuse.models.snn import SNN
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head
from histofuse.training.run import Job, run


@pytest.fixture
def split():
    return two_branch_split()


def test_the_history_tells_which_branch_leads(split, tmp_path):
    _, history = train(split, tmp_path, epochs=8)
    last = history.iloc[-1]
    assert last["rho_genomic"] > 1 > last["k_genomic"]
    assert last["ahead_genomic"] > 0.5
    assert last["c_genomic"] > last["c_image"] > 0.5
    assert last["gradient_genomic"] > 0
    assert len(last["rho_steps_genomic"]) == len(last["k_steps_image"]) == 4


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("apply", ["learning_rate", "gradient"])
def test_an_interrupted_run_goes_on_to_the_same_bits(split, tmp_path, monkeypatch, optimiser, apply):
    settings = {"optimiser": optimiser, "weight_decay": 0.01, "clip_norm": 1.0}
    settings["modulation"] = {"apply": apply, "ema": 0.9, "noise": True}
    whole, history = train(split, tmp_path, name="whole.pt", **settings)
    kill_after(2, monkeypatch, lambda: train(split, tmp_path, **settings))
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


def test_a_class_without_a_case_leaves_the_branches_without_a_figure(split, tmp_path):
    """Their AUC is for the log alone; the run goes on, as one without modulation does."""
    rng = np.random.default_rng(0)
    target = Target("classification", np.zeros(80), np.zeros(80, np.int64), rng.integers(0, 2, 80), classes=3)
    graded = Split(split.rows, target, split.blocks)
    head = Head(target, {"name": "cross_entropy"})
    _, history = train(graded, tmp_path, build=lambda: Two(outputs=3), head=head, epochs=2)
    assert history["c_genomic"].isna().all()
    assert history["loss"].notna().all()


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

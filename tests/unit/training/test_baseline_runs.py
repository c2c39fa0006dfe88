"""Runs of KS-Fusion's multimodal baselines: from bags and genes to predictions of each task, and what tiles score."""

import numpy as np
import pandas as pd
import pytest
from killed_runs import kill_after
from tile_examples import tile_store

from histofuse.evaluation.predictions import check_predictions
from histofuse.io import InputError
from histofuse.models.add import Add
from histofuse.models.bilinear import Bilinear
from histofuse.models.concat import Concat
from histofuse.models.mcat import MCAT
from histofuse.training.dataset import Split, Target
from histofuse.training.run import Job, run
from histofuse.training.tile_scores import tile_scores

SURVIVAL = {"kind": "survival"}
GRADE = {"kind": "classification", "classes": {"2": [2], "3": [3], "4": [4]}}
LATE = {"hidden": 4, "widths": [6, 5]}
TOKENS = {"width": 8, "layers": 1, "heads": 2, "feedforward": 8}
PARAMS = {Concat: LATE, Add: LATE, Bilinear: LATE, MCAT: TOKENS}
TRAINING = {"epochs": 3, "lr": 0.01, "batch_size": 8, "optimiser": "adamw"}
N = 32


def job(folder, name="c.pt"):
    return Job(number=0, seed=1, threads=1, checkpoint=folder / name, digest="d")


def entry_of(model, **training):
    return {"params": PARAMS[model], "training": TRAINING | training}


@pytest.fixture
def split_of(tmp_path):
    """kind of task → 32 cases with 2 to 8 tiles in bags of 9, laid out as the options say, and two tables."""

    def make(kind="survival", **options):
        rng = np.random.default_rng(0)
        cases = [f"C{k:02}" for k in range(N)]
        store = tile_store(tmp_path, {case: rng.normal(size=(2 + k % 7, 6)) for k, case in enumerate(cases)}, **options)
        rows = pd.DataFrame({"case_id": cases, "slide_id": cases, "part": ["train"] * 24 + ["test"] * 8})
        label, classes = (np.arange(N) % 3, 3) if kind == "classification" else (np.zeros(0, int), 0)
        target = Target(kind, rng.exponential(size=N) * 100, rng.integers(0, 2, N), label, classes)
        blocks = {name: rng.normal(size=(N, 5)).astype(np.float32) for name in ("tumour", "immune")}
        return Split(rows, target, blocks, {"tiles": store})

    return make


@pytest.mark.parametrize("model", PARAMS)
@pytest.mark.parametrize(
    ("task", "loss", "outputs"),
    [(SURVIVAL, {"name": "cox"}, 1), (SURVIVAL, {"name": "discrete", "intervals": 4}, 4), (GRADE, None, 3)],
)
def test_each_task_is_trained_and_its_tiles_are_scored(split_of, tmp_path, model, task, loss, outputs):
    split = split_of(task["kind"], bag=9)
    entry = entry_of(model) | ({"loss": loss} if loss else {})
    result = run(model, entry, task, split, job(tmp_path))
    check_predictions(result.predictions, task["kind"])
    assert len(result.predictions) == N
    assert result.weights["head.weight"].shape[0] == outputs
    scores = tile_scores(model, entry, task, split, result.weights, result.predictions)
    attention = scores.filter(like="attention")
    assert attention.shape[1] == (2 if model is MCAT else 1)
    np.testing.assert_allclose(attention.groupby(scores["slide_id"]).sum(), 1, atol=1e-5)


@pytest.mark.parametrize("model", PARAMS)
def test_a_map_is_read_as_the_bag_that_it_is(split_of, tmp_path, model):
    """With and without an order: the same weights, but for the order of the sums."""
    counted, laid_out = (
        run(model, entry_of(model), SURVIVAL, split_of(bag=9, **order), job(tmp_path, f"{len(order)}.pt"))
        for order in ({}, {"order": "raster"})
    )
    np.testing.assert_allclose(counted.predictions["risk"], laid_out.predictions["risk"], atol=1e-4)


@pytest.mark.parametrize("model", [Bilinear, MCAT])
def test_an_interrupted_run_goes_on_to_the_same_bits(split_of, tmp_path, monkeypatch, model):
    """Moments of batch normalisation included."""
    split = split_of(bag=9)
    whole = run(model, entry_of(model), SURVIVAL, split, job(tmp_path, "whole.pt"))
    kill_after(2, monkeypatch, lambda: run(model, entry_of(model), SURVIVAL, split, job(tmp_path)))
    resumed = run(model, entry_of(model), SURVIVAL, split, job(tmp_path))
    assert any(name.endswith("running_mean") for name in whole.weights) == (model is Bilinear)
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(value, resumed.weights[name])


@pytest.mark.parametrize("model", PARAMS)
def test_batches_of_one_case(split_of, tmp_path, model):
    """As MCAT's own paper trains; only batch normalisation cannot, and says what to do."""
    entry = entry_of(model, batch_size=1) | {"loss": {"name": "discrete", "intervals": 4}}
    if model is Bilinear:
        with pytest.raises(InputError, match="take a batch_size of 2 or more"):
            run(model, entry, SURVIVAL, split_of(bag=9), job(tmp_path))
    else:
        check_predictions(run(model, entry, SURVIVAL, split_of(bag=9), job(tmp_path)).predictions, "survival")

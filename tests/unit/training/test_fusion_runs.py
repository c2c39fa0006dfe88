"""Runs of the fusion models: regions and genes together, modulated, from a batch to predictions for every case."""

import numpy as np
import pandas as pd
import pytest
import torch
from killed_runs import kill_after
from region_examples import region_split
from tile_examples import tile_store

from histofuse.evaluation.predictions import check_predictions
from histofuse.io import InputError
from histofuse.models.path_gptomic import PathGPTOmic
from histofuse.models.path_omics import PathOmics
from histofuse.models.pathomic_fusion import PathomicFusion
from histofuse.training.dataset import Split
from histofuse.training.run import Job, run

SURVIVAL = {"kind": "survival"}
T2T = {"encoder": {"width": 8, "depth": 1, "heads": 2, "token_width": 4}}
TRAINING = {"epochs": 4, "lr": 0.005, "batch_size": 16, "optimiser": "adamw", "weight_decay": 1e-4, "clip_norm": 1.0}


def job(folder, name="c.pt"):
    return Job(number=0, seed=1, threads=1, checkpoint=folder / name, digest="d")


@pytest.fixture
def split(tmp_path):
    """Regions that show the hazard a little and genes that show it clearly."""
    split = region_split(tmp_path)
    rng = np.random.default_rng(0)
    case = pd.factorize(split.rows["case_id"])[0]
    clear = -np.log(split.target.time)[:, None] * np.ones(6)
    split.blocks["alterations"] = (clear + rng.normal(size=(24, 6))[case]).astype(np.float32)
    split.blocks["scgpt"] = rng.normal(size=(24, 9))[case].astype(np.float32)
    return split


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_path_gptomic_is_trained_with_modulation(split, tmp_path, precision):
    training = TRAINING | {"modulation": {}, "branch_lr": {"image": 0.001}, "precision": precision}
    result = run(PathGPTOmic, {"params": {"image": T2T}, "training": training}, SURVIVAL, split, job(tmp_path))
    check_predictions(result.predictions, "survival")
    assert len(result.predictions) == 24
    history = result.history
    assert history["rho_genomic"].gt(0).all()
    assert history["k_genomic"].between(0, 1).all()
    assert history["gradient_image"].gt(0).all()
    assert history[["c_genomic", "c_image"]].stack().between(0, 1).all()


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_path_gptomic_learns_from_vectors_of_length_one(split, tmp_path, optimiser):
    """Not z-scored but times √width, as experiments 2 and 3 give scGPT's own vectors to MLP-B."""
    rng = np.random.default_rng(1)
    case = pd.factorize(split.rows["case_id"])[0]
    split.blocks["alterations"] = rng.normal(size=(24, 6))[case].astype(np.float32)
    vectors = np.column_stack([-np.log(split.target.time), 1 + 0.1 * rng.normal(size=(24, 8))[case]])
    split.blocks["scgpt"] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    entry = {"params": {"image": T2T, "scale_embedding": True}, "training": TRAINING | {"epochs": 40, "modulation": {}}}
    entry["training"] |= {"optimiser": optimiser, "lr": 0.05 if optimiser == "sgd" else 0.005}
    history = run(PathGPTOmic, entry, SURVIVAL, split, job(tmp_path)).history
    assert history["loss"][-3:].mean() < history["loss"][:3].mean() - 0.3
    assert history["c_genomic"].iloc[-1] > 0.8


def test_an_interrupted_modulated_run_on_regions_goes_on_to_the_same_bits(split, tmp_path, monkeypatch):
    entry = {"params": {"image": T2T}, "training": TRAINING | {"modulation": {"ema": 0.5}}}
    whole = run(PathGPTOmic, entry, SURVIVAL, split, job(tmp_path, "whole.pt"))
    kill_after(2, monkeypatch, lambda: run(PathGPTOmic, entry, SURVIVAL, split, job(tmp_path)))
    resumed = run(PathGPTOmic, entry, SURVIVAL, split, job(tmp_path))
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(value, resumed.weights[name])


def test_kronecker_cannot_be_modulated(split, tmp_path):
    entry = {"params": {"image": T2T, "fusion": "kronecker"}, "training": TRAINING | {"modulation": {}}}
    with pytest.raises(InputError, match="training: modulation: the output of PathGPTOmic is no sum of branches"):
        run(PathGPTOmic, entry, SURVIVAL, split, job(tmp_path))


@pytest.mark.parametrize("gates", [(True, False), (False, False)])
def test_pathomic_fusion_holds_its_snn_for_the_first_epochs(split, tmp_path, gates):
    params = {"image": T2T, "gate_image": gates[0], "gate_genomic": gates[1], "bounded": True}
    training = TRAINING | {"betas": [0.5, 0.999], "l1": 3e-4, "l1_branch": "genomic"}
    held = {"params": params, "training": training | {"frozen": {"genomic": 4}}}
    result = run(PathomicFusion, held, SURVIVAL, split, job(tmp_path))
    check_predictions(result.predictions, "survival")
    assert result.predictions["risk"].abs().max() <= 3
    torch.manual_seed(1)
    start = PathomicFusion(split.shapes, 1, **params).state_dict()
    for name, value in result.weights.items():
        if name.startswith("genomic."):
            np.testing.assert_array_equal(value, start[name].numpy())
    later = {"params": params, "training": training | {"frozen": {"genomic": 2}}}
    trained = run(PathomicFusion, later, SURVIVAL, split, job(tmp_path, "later.pt")).weights
    assert not np.array_equal(trained["genomic.0.weight"], result.weights["genomic.0.weight"])


def test_path_omics_is_trained_on_discrete_hazards(split, tmp_path):
    slides = [f"S{k}" for k in range(len(split.rows))]
    rows = split.rows.assign(slide_id=slides).drop(columns="region")
    rng = np.random.default_rng(0)
    store = tile_store(tmp_path, {slide: rng.normal(size=(4, 3)) for slide in slides})
    split = Split(rows, split.target, split.blocks, {"tiles": store})
    entry = {"params": {"width": 8, "heads": 2, "feedforward": 8}, "training": TRAINING}
    result = run(PathOmics, entry | {"loss": {"name": "discrete", "intervals": 4}}, SURVIVAL, split, job(tmp_path))
    check_predictions(result.predictions, "survival")
    assert result.weights["head.weight"].shape == (4, 8)

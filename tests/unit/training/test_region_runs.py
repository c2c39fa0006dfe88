"""Runs on regions: they learn, go on to the same bits, average over crops, regions and cases, and keep their digest."""

import numpy as np
import pandas as pd
import pytest
import torch
from region_examples import region_split, write_regions

from histofuse.evaluation.predictions import check_predictions
from histofuse.evaluation.survival import harrell_c
from histofuse.io import InputError
from histofuse.models.image_survival import ImageSurvival
from histofuse.models.scnn import SCNN
from histofuse.training import loop
from histofuse.training.heads import Head
from histofuse.training.regions import RegionStore
from histofuse.training.run import Job, run, run_digest, weights_in

SURVIVAL = {"kind": "survival"}
T2T = {"image": {"encoder": {"width": 16, "depth": 1, "heads": 2, "token_width": 8, "token_drop": 0.1}}}
VGG = {
    "image": {
        "encoder": {
            "class": "histofuse.models.vgg:VGG",
            "stages": [[8, 1], [8, 1]],
            "pooled": 2,
            "hidden": [16, 8],
            "dropout": [0.1, 0.1],
            "frozen": False,
        }
    }
}
SCNN_SMALL = {"stages": [[4, 1], [8, 1]], "pooled": 2, "hidden": [16]}
TRAINING = {"epochs": 40, "lr": 0.01, "batch_size": 16, "optimiser": "adamw", "unique_cases": True}


def job(folder, name="c.pt"):
    return Job(number=0, seed=1, threads=1, checkpoint=folder / name, digest="d")


def c_index(frame, part):
    frame = frame[frame["part"] == part]
    return harrell_c(frame["risk"].to_numpy(), frame["time_days"].to_numpy(), frame["event"].to_numpy(np.int64))


@pytest.mark.parametrize(("model", "params"), [(ImageSurvival, T2T), (ImageSurvival, VGG), (SCNN, SCNN_SMALL)])
def test_a_tiny_network_learns_what_regions_look_like(tmp_path, model, params):
    split = region_split(tmp_path)
    result = run(model, {"params": params, "training": TRAINING}, SURVIVAL, split, job(tmp_path))
    check_predictions(result.predictions, "survival")
    assert len(result.predictions) == 24
    loss = result.history["loss"]
    assert loss[-3:].mean() < loss[:3].mean() - 0.1
    assert c_index(result.predictions, "train") > 0.8
    assert c_index(result.predictions, "test") > 0.7


class Killed(Exception):
    pass


@pytest.mark.parametrize("params", [T2T, VGG])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, params):
    monkeypatch.setattr(loop, "_pause", lambda writing: 0)
    split, entry = region_split(tmp_path), {"params": params, "training": TRAINING | {"epochs": 4}}
    whole = run(ImageSurvival, entry, SURVIVAL, split, job(tmp_path, "whole.pt"))
    save = loop._save

    def save_then_die(path, digest, model, optimiser, history, *others):
        save(path, digest, model, optimiser, history, *others)
        if len(history) == 2:
            raise Killed

    monkeypatch.setattr(loop, "_save", save_then_die)
    with pytest.raises(Killed):
        run(ImageSurvival, entry, SURVIVAL, split, job(tmp_path))
    monkeypatch.setattr(loop, "_save", save)
    resumed = run(ImageSurvival, entry, SURVIVAL, split, job(tmp_path))
    pd.testing.assert_frame_equal(whole.predictions, resumed.predictions, check_exact=True)
    for name, values in whole.weights.items():
        np.testing.assert_array_equal(values, resumed.weights[name])


def test_checkpoints_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(loop, "_save", lambda *_: saves.append(0))
    monkeypatch.setattr(loop, "SHORTEST_PAUSE", 1e12)
    run(SCNN, {"params": SCNN_SMALL, "training": TRAINING}, SURVIVAL, region_split(tmp_path), job(tmp_path))
    assert len(saves) == 1  # after the first epoch, then not before the pause is over


def test_half_precision_trains_alike(tmp_path):
    split = region_split(tmp_path)
    loss = {}
    for precision in ("float32", "bfloat16"):
        entry = {"params": T2T, "training": TRAINING | {"epochs": 3, "precision": precision}}
        result = run(ImageSurvival, entry, SURVIVAL, split, job(tmp_path, f"{precision}.pt"))
        loss[precision] = result.history["loss"].to_numpy()
        assert all(value.dtype == np.float32 for value in result.weights.values())
    assert not np.array_equal(loss["float32"], loss["bfloat16"])
    np.testing.assert_allclose(loss["bfloat16"], loss["float32"], atol=0.05)


@pytest.mark.parametrize(
    ("aggregate", "combine"),
    [
        (None, lambda risk: risk.mean()),
        ({"rows": "max"}, lambda risk: risk.mean(axis=1).max()),
        ({"crops": "median", "rows": "second_highest"}, lambda risk: np.sort(np.median(risk, axis=1))[-2]),
    ],
)
def test_crops_then_regions_then_the_case(tmp_path, aggregate, combine):
    split = region_split(tmp_path, n_cases=12, per_case=3)
    outputs = np.random.default_rng(0).normal(size=(36 * 4, 1))
    head = Head(split.target.take(split.part("train")), {"name": "cox"}, aggregate)
    frame = head.predictions(outputs, split, 0, 0)
    expected = [combine(risk) for risk in outputs.reshape(12, 3, 4)]
    np.testing.assert_allclose(frame["risk"], expected)


def test_a_case_with_one_region_has_no_second_highest(tmp_path):
    split = region_split(tmp_path, per_case=1)
    head = Head(split.target, {"name": "cox"}, {"rows": "second_highest"})
    outputs = np.random.default_rng(0).normal(size=(24, 1))
    np.testing.assert_allclose(head.predictions(outputs, split, 0, 0)["risk"], outputs[:, 0])


def test_survival_curves_of_discrete_hazards_are_averaged_over_crops(tmp_path):
    split = region_split(tmp_path, per_case=1)
    head = Head(split.target, {"name": "discrete", "intervals": 3})
    outputs = np.random.default_rng(0).normal(size=(24, 4, 3))
    frame = head.predictions(outputs.reshape(-1, 3), split, 0, 0)
    of_crop = [np.stack(head.predictions(outputs[:, k], split, 0, 0)["survival"]) for k in range(4)]
    np.testing.assert_allclose(np.stack(frame["survival"]), np.mean(of_crop, axis=0))
    assert head.criterion(split)(outputs.reshape(-1, 3), np.arange(24)) == pytest.approx(
        harrell_c(frame["risk"].to_numpy(), split.target.time, split.target.event)
    )


@pytest.mark.parametrize(
    ("loss", "aggregate", "message"),
    [
        ("cox", {"rows": "min"}, "aggregate: rows: 'min' does not do here; choose mean, max, second_highest"),
        (
            "discrete",
            {"crops": "median"},
            "aggregate: crops: 'median' does not do here; choose only mean with",
        ),
    ],
)
def test_an_unknown_aggregate_is_refused(tmp_path, loss, aggregate, message):
    with pytest.raises(InputError, match=message):
        Head(region_split(tmp_path).target, {"name": loss}, aggregate)


def test_the_digest_follows_regions_and_weights(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"one")
    entry = {"params": {"image": {"encoder": {"checkpoint": str(weights)}}}}
    digest = lambda: run_digest(entry, SURVIVAL, region_split(tmp_path), 0, "code")  # noqa: E731
    base = digest()
    assert base == digest()
    weights.write_bytes(b"two")
    assert base != digest()
    weights.write_bytes(b"one")
    pixels = np.array(region_split(tmp_path).regions.pixels)
    split = region_split(tmp_path)
    pixels[3, 1, 2] += 1  # one pixel of one region
    split.regions = RegionStore(*write_regions(tmp_path, pixels, split.rows["case_id"].tolist()), 32, 16, 32)
    assert base != run_digest(entry, SURVIVAL, split, 0, "code")


def test_weights_are_found_at_any_depth():
    params = {"checkpoint": "b", "image": {"encoder": {"checkpoint": "a"}, "project": 3}, "other": {"checkpoint": None}}
    assert weights_in(params) == ["a", "b"]


def test_the_order_of_images_does_not_depend_on_torchs_generator(tmp_path):
    """Models that draw more or fewer numbers of their own see the same crops."""
    split = region_split(tmp_path)
    seen = []
    for burn in (0, 5):
        batches = loop.Batches(split, torch.device("cpu"))
        torch.rand(burn)
        batches.start_epoch(3, 1)
        seen.append(batches(np.array([4, 9]))["regions"])
    assert torch.equal(*seen)

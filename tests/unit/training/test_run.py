"""One run: predictions that keep their contract, averaged per case, from every kind of head."""

import numpy as np
import pandas as pd
import pytest
from tile_examples import tile_store

from histofuse.evaluation.predictions import check_predictions
from histofuse.evaluation.survival import harrell_c
from histofuse.io import InputError
from histofuse.models.attmil import AttMIL
from histofuse.models.linear import LinearModel
from histofuse.models.snn import SNN
from histofuse.training.dataset import Split, Target
from histofuse.training.run import Job, run, run_digest
from histofuse.training.scaling import BlockScaler
from histofuse.training.tiles import TileStore

SURVIVAL = {"kind": "survival"}
GRADE = {"kind": "classification", "classes": {"2": [2], "3": [3], "4": [4]}}
TRAINING = {"epochs": 3, "lr": 0.01, "batch_size": 16}


def make_split(kind, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    time, event = rng.exponential(np.exp(-2 * x[:, 0])) * 100, (rng.random(60) < 0.8).astype(np.int64)
    label = np.digitize(x[:, 0], [-0.5, 0.5])
    rows = pd.DataFrame({"case_id": [f"C{k:02}" for k in range(60)], "part": ["train"] * 45 + ["test"] * 15})
    classification = kind == "classification"
    target = Target(kind, time, event, label if classification else np.zeros(0, int), 3 if classification else 0)
    return Split(rows, target, {"genes": x})


def job(folder, digest="d"):
    return Job(number=2, seed=1, threads=1, checkpoint=folder / "c.pt", digest=digest)


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        (LinearModel, {}),
        (SNN, {"training": TRAINING}),
        (SNN, {"training": TRAINING, "loss": {"name": "cox", "ties": "efron", "normaliser": "events"}}),
        (SNN, {"training": TRAINING, "loss": {"name": "discrete", "intervals": 4}}),
    ],
)
def test_survival_predictions_keep_the_contract(tmp_path, model, entry):
    result = run(model, entry, SURVIVAL, make_split("survival"), job(tmp_path))
    frame = result.predictions
    check_predictions(frame, "survival")
    assert len(frame) == 60
    assert frame[["split", "seed"]].drop_duplicates().to_numpy().tolist() == [[2, 1]]
    curves = np.stack(frame["survival"])
    assert (np.diff(curves, axis=1) <= 0).all()
    assert 0 <= curves.min() <= curves.max() <= 1
    order = np.argsort(frame["risk"].to_numpy())
    assert curves[order[0], -1] > curves[order[-1], -1]  # the higher the risk, the lower the curve


@pytest.mark.parametrize(("model", "entry"), [(LinearModel, {}), (SNN, {"training": TRAINING})])
def test_class_probabilities_keep_the_contract(tmp_path, model, entry):
    result = run(model, entry, GRADE, make_split("classification"), job(tmp_path))
    check_predictions(result.predictions, "classification")
    assert np.stack(result.predictions["probabilities"]).shape == (60, 3)


def test_a_linear_model_finds_the_planted_signal(tmp_path):
    test = run(LinearModel, {}, SURVIVAL, make_split("survival"), job(tmp_path)).predictions.query("part == 'test'")
    c = harrell_c(test["risk"].to_numpy(), test["time_days"].to_numpy(), test["event"].to_numpy(np.int64))
    assert c > 0.75


def test_a_case_gets_the_mean_of_its_slides(tmp_path):
    single = make_split("survival")
    cases = single.rows["case_id"].repeat(2).reset_index(drop=True)
    parts = single.rows["part"].repeat(2).reset_index(drop=True)
    rows = pd.DataFrame({"case_id": cases, "part": parts, "slide_id": [f"S{k}" for k in range(120)]})
    twice = np.repeat(np.arange(60), 2)
    shift = np.tile([-1.0, 1.0], 60)
    values = dict(zip(rows["slide_id"], single.blocks["genes"][twice, 0] + shift))
    store = tile_store(tmp_path, {slide: np.full((1, 2), value) for slide, value in values.items()})
    split = Split(rows, single.target.take(twice), {}, {"tiles": store})
    result = run(AttMIL, {"training": TRAINING}, SURVIVAL, split, job(tmp_path))
    check_predictions(result.predictions, "survival")
    assert len(result.predictions) == 60
    w, b = result.weights["head.weight"], result.weights["head.bias"]
    expected = [float(np.float16(values[f"S{2 * k}"])) + float(np.float16(values[f"S{2 * k + 1}"])) for k in range(60)]
    np.testing.assert_allclose(result.predictions["risk"], np.array(expected) / 2 * w.sum() + b[0], atol=1e-4)


def test_an_estimator_has_its_own_loss_whatever_the_task_says(tmp_path):
    split = make_split("survival")
    own, told = (
        run(LinearModel, {}, task, split, job(tmp_path))
        for task in (SURVIVAL, SURVIVAL | {"loss": {"name": "discrete", "intervals": 4}})
    )
    pd.testing.assert_frame_equal(own.predictions, told.predictions)


def test_a_loss_that_does_not_fit_the_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="'cross_entropy' does not fit a survival task; choose cox or discrete"):
        run(SNN, {"loss": {"name": "cross_entropy"}}, SURVIVAL, make_split("survival"), job(tmp_path))


def test_the_weights_hold_what_new_cases_need(tmp_path):
    split = make_split("survival")
    raw = pd.DataFrame(split.blocks["genes"], columns=list("abcde"), index=split.rows["case_id"])
    sources = pd.Series(["x", "y"] * 30, index=raw.index)
    scaler = BlockScaler(per_source=True, components=2).fit(raw.iloc[:45], sources)
    split.blocks["genes"], split.scalers["genes"] = scaler.apply(raw, sources), scaler
    weights = run(LinearModel, {}, SURVIVAL, split, job(tmp_path)).weights
    z = (raw.iloc[[0]] - weights["scaling.genes.x.mean"]) / weights["scaling.genes.x.sd"]
    scores = (z - weights["scaling.genes.centre"]) @ weights["scaling.genes.loadings"].T
    np.testing.assert_allclose(scores, split.blocks["genes"][[0]], atol=1e-6)


@pytest.fixture
def tiles(tmp_path):
    """Makes a split of rows with two tiles each, whose values differ in one place where `change` is not 0."""

    def make(change=0.0):
        split = make_split("classification")
        slides = [f"S{k:02}" for k in range(60)]
        split.rows["slide_id"] = slides
        features = {slide: np.full((2, 3), k / 8) for k, slide in enumerate(slides)}
        features["S07"][0, 2] += change
        split.bags["tiles"] = tile_store(tmp_path, features)
        return split

    return make


def test_the_digest_reads_no_whole_bag(tiles, monkeypatch):
    """Of a cohort of whole slides that would be gigabytes, for each of its runs."""
    split = tiles()
    before = run_digest({}, GRADE, split, 0, "code")
    monkeypatch.setattr(TileStore, "features", lambda *_: pytest.fail("a whole bag was read"))
    assert run_digest({}, GRADE, split, 0, "code") == before


def test_the_digest_follows_everything_a_result_depends_on(tiles):
    entry = {"params": {}}

    def digest(split, entry=entry, task=GRADE, seed=0, code="code", starts=None):
        return run_digest(entry, task, split, seed, code, starts)

    base = digest(tiles())
    assert base == digest(tiles()) == digest(tiles(), starts={})
    assert base != digest(tiles(), entry={"params": {"dropout": 0}})
    assert base != digest(tiles(), task=GRADE | {"classes": {"2": [2], "3": [3], "4": [4, 5]}})
    assert base != digest(tiles(), seed=1)
    assert base != digest(tiles(), code="other code")
    assert base != digest(tiles(), starts={"head.weight": np.zeros(3, np.float32)})
    assert base != digest(tiles(change=1.0))
    for values in ("time", "event", "label"):
        split = tiles()
        getattr(split.target, values)[3] += 1
        assert base != digest(split)
    for column, value in (("part", "test"), ("case_id", "C60")):
        split = tiles()
        split.rows.loc[3, column] = value
        assert base != digest(split)
    split = tiles()
    split.blocks["genes"][3, 3] += 1
    assert base != digest(split)

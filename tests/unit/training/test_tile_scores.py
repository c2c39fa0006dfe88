"""Scores of tiles: weighted by attention they are the slide's own output, for every kind of head."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.attmil import AttMIL
from histofuse.models.concat import Concat
from histofuse.models.snn import SNN
from histofuse.training.dataset import Split, Target, read_split
from histofuse.training.loop import Batches, predict
from histofuse.training.run import Job, run
from histofuse.training.tile_scores import tile_scores
from histofuse.training.tiles import TileStore

SURVIVAL = {"kind": "survival"}
GRADE = {"kind": "classification", "classes": {"2": [2], "3": [3], "4": [4]}}
ENTRY = {"training": {"epochs": 3, "lr": 0.01, "batch_size": 16}}
N, WIDTH = 40, 6
PACKED = {"tiles": "tiles.f16", "tiles_index": "index.parquet", "tiles_coords": "coords.i32"}


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    n_tiles = rng.integers(2, 9, N)
    first = np.cumsum(n_tiles) - n_tiles
    rng.normal(size=(n_tiles.sum(), WIDTH)).astype("<f2").tofile(tmp_path / "tiles.f16")
    index = {"slide_id": [f"S{k:02}" for k in range(N)], "case_id": [f"C{k:02}" for k in range(N)]}
    pd.DataFrame(index | {"first_tile": first, "n_tiles": n_tiles, "dim": WIDTH}).to_parquet(tmp_path / "index.parquet")
    return TileStore(tmp_path / "tiles.f16", tmp_path / "index.parquet", bag=10)


def make_split(store, kind="survival", blocks=()):
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"case_id": store.index["case_id"].to_numpy(), "part": ["train"] * 30 + ["test"] * 10})
    rows["slide_id"] = store.index.index
    labels, classes = (rng.integers(0, 3, N), 3) if kind == "classification" else (np.zeros(0, int), 0)
    target = Target(kind, rng.exponential(size=N) * 100, rng.integers(0, 2, N), labels, classes)
    values = {name: rng.normal(size=(N, 4)).astype(np.float32) for name in blocks}
    return Split(rows, target, values, {"tiles": store}, {"tiles": store.moments(list(rows["slide_id"][:30]))})


def trained(model, entry, task, split, folder):
    result = run(model, entry, task, split, Job(number=0, seed=1, threads=1, checkpoint=folder / "c.pt", digest="d"))
    scores = tile_scores(model, entry, task, split, result.weights, result.predictions)
    return result, scores


def weighted(scores, name):
    return (scores["attention"] * scores[name]).groupby(scores["slide_id"]).sum().to_numpy()


def test_attention_and_hazards_of_tiles_make_the_risk_of_their_slide(store, tmp_path):
    split = make_split(store)
    result, scores = trained(AttMIL, ENTRY, SURVIVAL, split, tmp_path)
    assert list(scores) == ["slide_id", "case_id", "part", "tile", "stored", "count", "attention", "log_hazard"]
    np.testing.assert_allclose(scores.groupby("slide_id")["attention"].sum(), 1, atol=1e-5)
    risk = result.predictions.groupby("part")["risk"].apply(np.array)
    np.testing.assert_allclose(weighted(scores, "log_hazard"), risk["test"] - risk["train"].mean(), atol=1e-4)


def test_only_stored_tiles_of_the_test_part_are_scored(store, tmp_path):
    scores = trained(AttMIL, ENTRY, SURVIVAL, make_split(store), tmp_path)[1]
    assert scores["slide_id"].unique().tolist() == [f"S{k}" for k in range(30, 40)]
    for slide, tiles in scores.groupby("slide_id"):
        assert tiles["tile"].tolist() == list(range(store.index.loc[slide, "n_tiles"]))
        assert tiles["count"].sum() == 10


class OnMap(AttMIL):
    """AttMIL that reads its bag as a map, every place of it as a tile."""

    def tile_scores(self, batch):
        place = batch["tiles_place"]
        tiles = torch.gather(batch["tiles"], 1, place.unsqueeze(-1).expand(-1, -1, WIDTH))
        return super().tile_scores({"tiles": tiles, "tiles_count": torch.ones(place.shape)})


@pytest.mark.parametrize("order", ["raster", "spatial"])
def test_the_places_of_a_map_make_one_score_per_tile(store, tmp_path, order):
    """A map holds the same bag, so that its scores are those of counted tiles."""
    np.random.default_rng(2).permutation(2 * len(store.tiles)).astype("<i4").tofile(tmp_path / "coords.i32")
    names = (tmp_path / name for name in PACKED.values())
    counted = make_split(store)
    laid_out = make_split(TileStore(*names, 10, order))
    result, scores = trained(AttMIL, ENTRY, SURVIVAL, counted, tmp_path)
    again = tile_scores(OnMap, ENTRY, SURVIVAL, laid_out, result.weights, result.predictions)
    assert list(again) == list(scores)
    assert again["tile"].tolist() == scores["tile"].tolist()
    if order == "raster":
        np.testing.assert_array_equal(again["count"], scores["count"])
        np.testing.assert_allclose(again[["attention", "log_hazard"]], scores[["attention", "log_hazard"]], atol=1e-5)
    np.testing.assert_allclose(again.groupby("slide_id")["attention"].sum(), 1, atol=1e-5)
    with pytest.raises(InputError, match=r"for a slide of 10 places"):
        tile_scores(AttMIL, ENTRY, SURVIVAL, laid_out, result.weights, result.predictions)


def test_odds_of_death_are_the_mean_over_the_intervals(store, tmp_path):
    split, entry = make_split(store), ENTRY | {"loss": {"name": "discrete", "intervals": 3}}
    result, scores = trained(AttMIL, entry, SURVIVAL, split, tmp_path)
    model = AttMIL({"tiles": (WIDTH,)}, 3)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in result.weights.items() if not k.startswith("scaling")})
    mean, sd = split.bag_scales["tiles"]
    slides = [torch.from_numpy(((store.features(s) - mean) / sd).astype(np.float32)) for s in split.rows["slide_id"]]
    counts = [torch.from_numpy(store.count(s)) for s in split.rows["slide_id"]]
    with torch.no_grad():
        odds = [model({"tiles": t[None], "tiles_count": c[None]}).mean().item() for t, c in zip(slides, counts)]
    np.testing.assert_allclose(
        weighted(scores, "log_odds_of_death"), np.array(odds[30:]) - np.mean(odds[:30]), atol=1e-4
    )


def test_odds_of_the_predicted_class_are_those_against_the_others(store, tmp_path):
    split = make_split(store, "classification")
    result, scores = trained(AttMIL, ENTRY, GRADE, split, tmp_path)
    log_p = np.log(np.stack(result.predictions["probabilities"]))
    chosen = log_p.argmax(axis=1)

    def odds(values, k):  # of class k against each other class, in the mean
        return values[k] - np.delete(values, k).mean()

    average = log_p[:30].mean(axis=0)
    expected = [odds(log_p[row], chosen[row]) - odds(average, chosen[row]) for row in range(30, 40)]
    np.testing.assert_allclose(weighted(scores, "log_odds_of_class"), expected, atol=1e-4)


def test_concat_tells_the_part_of_the_image(store, tmp_path):
    split = make_split(store, blocks=["genes"])
    result, scores = trained(Concat, ENTRY, SURVIVAL, split, tmp_path)
    split.blocks["genes"][:] = 0  # the same genes for all: what is left between cases is the image
    model = Concat(split.shapes, 1)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in result.weights.items() if not k.startswith("scaling")})
    risk = predict(model, Batches(split, torch.device("cpu")), np.arange(N))[:, 0]
    np.testing.assert_allclose(weighted(scores, "log_hazard"), risk[30:] - risk[:30].mean(), atol=1e-4)


class Attentive(AttMIL):
    def tile_scores(self, batch):
        return {"attention_first": self.pooling.attention(batch["tiles"], batch["tiles_count"])}


class Alone(AttMIL):
    def tile_scores(self, batch):
        return {"output": self.head(batch["tiles"])}


class Wrong(AttMIL):
    def tile_scores(self, batch):
        return {"attention": self.head(batch["tiles"])}


def test_a_model_may_give_attention_only(store, tmp_path):
    scores = trained(Attentive, ENTRY, SURVIVAL, make_split(store), tmp_path)[1]
    assert list(scores)[6:] == ["attention_first"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Alone, "Alone.tile_scores: 'output' needs 'attention'"),
        (Wrong, r"Wrong.tile_scores: 'attention' must be finite and of shape \(1, \d\)"),
    ],
)
def test_scores_that_are_not_what_they_should_be_are_refused(store, tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        trained(model, ENTRY, SURVIVAL, make_split(store), tmp_path)


class Silent(nn.Module):
    pass


def test_a_model_without_tiles_or_scores_is_refused_by_name(store):
    split = make_split(store)
    with pytest.raises(InputError, match="Silent has no method tile_scores"):
        tile_scores(Silent, ENTRY, SURVIVAL, split, {}, pd.DataFrame())
    split.bags.clear()
    with pytest.raises(InputError, match="SNN takes no tiles"):
        tile_scores(SNN, ENTRY, SURVIVAL, split, {}, pd.DataFrame())


def test_weights_of_another_model_are_refused(store, tmp_path):
    split = make_split(store, blocks=["genes"])
    result = run(AttMIL, ENTRY, SURVIVAL, split, Job(0, 1, 1, tmp_path / "c.pt", "d"))
    with pytest.raises(InputError, match="the weights do not fit Concat on this split"):
        tile_scores(Concat, ENTRY, SURVIVAL, split, result.weights, result.predictions)


def test_a_split_is_assembled_from_the_files_of_its_run(store, tmp_path):
    cases = [f"C{k:02}" for k in range(N)]
    tables = {
        "population": pd.DataFrame({"case_id": cases, "time_days": 1.0, "event": 1, "label": pd.NA}),
        "splits": pd.DataFrame({"split": 0, "case_id": cases, "part": ["train"] * 30 + ["test"] * 10}),
        "genes": pd.DataFrame({"case_id": cases, "A": np.arange(N), "B": np.arange(N)[::-1], "C": np.arange(N) ** 2}),
        "selection_chosen": pd.DataFrame({"split": [0, 0, 1], "gene": ["A", "B", "C"], "selected": True}),
        "cases": pd.DataFrame({"case_id": cases, "source": ["x", "y"] * (N // 2)}),
    }
    files = {name: tmp_path / f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        table.to_parquet(files[name])
    (tmp_path / "groups.tsv").write_text("gene\tgroup\nA\ttumour\nNA\ttumour\n")
    (tmp_path / "columns.txt").write_text("A\n")
    files |= {name: tmp_path / file for name, file in {"groups": "groups.tsv", **PACKED}.items()}
    genes = {"from": "genes", "selection": "chosen", "group": ["tumour"], "per_source": True}
    inputs = {"tiles": {"bag": 10}, "genes": genes | {"columns": str(tmp_path / "columns.txt")}}
    split = read_split(files, 0, SURVIVAL, inputs)
    assert split.shapes == {"tiles": (WIDTH,), "genes": (1,)}
    assert split.scalers["genes"].names == ["A"]
    assert split.bags["tiles"].count("S00").sum() == 10
    assert set(split.scalers["genes"].figures) == {"", "x", "y"}

"""Points that attention reads: the tile at the nearest place, what lies off the map, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from tile_examples import tile_store
from torch import nn

from histofuse.io import InputError
from histofuse.models.attmil import AttMIL
from histofuse.models.deformable import Points
from histofuse.models.ks_fusion import KSFusion
from histofuse.training.dataset import Split, Target
from histofuse.training.sampling_points import sampling_points

SURVIVAL = {"kind": "survival"}
# Of a map of 2 × 2 places: corners, between them, a little and far off the map.
AT = [[0, 0], [1, 0], [0, 1], [0.4, 0.6], [-0.4, 1.4], [-0.6, 0], [0, 1.6], [9, 9]]
PLACES = [0, 1, 2, 2, 2, -1, -1, -1]


class Still(nn.Module):
    """Reads the same points of every slide."""

    def __init__(self, shapes, outputs):
        super().__init__()
        self.none = nn.Parameter(torch.zeros(1))

    def sampling_points(self, batch):
        at = torch.tensor(AT).expand(1, 2, -1, -1)
        return {"tumour": Points(at, torch.full((1, 2, 8), 1 / 8)), "other": Points(at.flip(2), torch.rand(1, 2, 8))}


def make_split(folder, tiles, bag=4, order="raster", blocks=()):
    rng = np.random.default_rng(0)
    features = {f"C{k}": rng.normal(size=(tiles, 6)).astype(np.float32) for k in range(12)}
    coords = np.stack([np.tile(np.arange(tiles), 12), np.zeros(12 * tiles)], axis=1).astype("<i4")
    coords.tofile(folder / "coords.i32")
    store = tile_store(folder, features, coords=folder / "coords.i32", bag=bag, order=order)
    rows = pd.DataFrame({"case_id": list(features), "slide_id": list(features), "part": ["train"] * 10 + ["test"] * 2})
    values = {name: rng.normal(size=(12, 3)).astype(np.float32) for name in blocks}
    target = Target("survival", rng.exponential(size=12), np.ones(12, np.int64), np.zeros(0, int))
    return Split(rows, target, values, {"tiles": store})


def points_of(split, model=Still, **entry):
    torch.manual_seed(0)
    outputs = 4 if "loss" in entry else 1
    weights = model(split.shapes, outputs, **entry.get("params", {})).state_dict()
    return sampling_points(model, entry, SURVIVAL, split, {name: value.numpy() for name, value in weights.items()})


@pytest.mark.parametrize(
    ("tiles", "at_places"),
    [(4, [0, 1, 2, 3]), (3, [0, 1, 2, 0]), (8, [0, 2, 4, 6])],
    ids=["a tile a place", "the first again", "every other tile"],
)
def test_a_point_has_the_tile_of_the_nearest_place(tmp_path, tiles, at_places):
    found = points_of(make_split(tmp_path, tiles))
    assert found["slide_id"].unique().tolist() == ["C10", "C11"]
    expected = [at_places[place] if place >= 0 else -1 for place in PLACES]
    for (_, name), of in found.groupby(["slide_id", "name"]):
        assert of["head"].tolist() == [0] * 8 + [1] * 8
        assert of["point"].tolist() == [*range(8)] * 2
        order = slice(None) if name == "tumour" else slice(None, None, -1)
        assert of["tile"].tolist() == expected[order] * 2
        np.testing.assert_allclose(of[["column", "row"]], np.tile(AT[order], (2, 1)))
    assert (found["stored"] == tiles).all()
    assert (found["part"] == "test").all()


def test_attention_of_all_points_of_a_slide_sums_to_one(tmp_path):
    found = points_of(make_split(tmp_path, 4))
    sums = found[found["name"] == "tumour"].groupby("slide_id")["attention"].sum()
    np.testing.assert_allclose(sums, 1)


@pytest.mark.parametrize("order", ["raster", "spatial"])
def test_points_of_ks_fusion(tmp_path, order):
    split = make_split(tmp_path, 20, bag=36, order=order, blocks=["tumour", "microenvironment"])
    params = {"bag": 36, "widths": (8, 16), "heads": 2, "head_width": 4}
    found = points_of(split, KSFusion, params=params, loss={"name": "discrete"})
    assert len(found) == 2 * 2 * 2 * 9  # slides, subspaces, heads, keys
    np.testing.assert_allclose(found.groupby(["slide_id", "name"])["attention"].sum(), 1, rtol=1e-5)
    off = found["tile"] < 0
    inside = found[["column", "row"]].ge(-0.5).all(axis=1) & found[["column", "row"]].le(5.5).all(axis=1)
    assert (off == ~inside).all()
    assert found.loc[~off, "tile"].between(0, 19).all()


class Flat(Still):
    def sampling_points(self, batch):
        return {"tumour": Points(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (AttMIL, {}, "AttMIL has no method sampling_points; take it off the table's `sampling_points`"),
        (Still, {"order": None}, "Still reads tiles that are no square map; give its input `tiles` an `order`"),
        (Still, {"bag": 5}, "Still reads tiles that are no square map"),
        (Flat, {}, r"Flat.sampling_points: 'tumour' must be finite points \[batch, head, point, 2\] with attention"),
    ],
)
def test_what_has_no_points_is_refused(tmp_path, model, options, message):
    with pytest.raises(InputError, match=message):
        points_of(make_split(tmp_path, 4, **options), model)


def test_a_model_without_tiles_is_refused(tmp_path):
    split = make_split(tmp_path, 4)
    split.bags.clear()
    with pytest.raises(InputError, match="Still takes no tiles"):
        points_of(split)

"""Packed regions: which rows they give, the crops they are cut into, and files that do not belong together."""

import numpy as np
import pandas as pd
import pytest
from region_examples import noise, write_regions

from histofuse.io import InputError
from histofuse.slides import crops
from histofuse.training.dataset import load_split, read_split
from histofuse.training.regions import RegionStore, crop_corners

CASES = ["A", "B", "B", "C"]
SMALL = {"crop_px": 16, "stride_px": 8, "input_px": 8}


@pytest.fixture
def files(tmp_path):
    return write_regions(tmp_path, noise(4, 32), CASES)


@pytest.mark.parametrize(
    ("side", "crop", "stride", "count"),
    [(1024, 512, 256, 9), (512, 512, 256, 1), (1024, 224, 200, 25), (1000, 300, 299, 9), (1024, 1024, 1, 1)],
)
def test_fixed_crops_are_those_that_features_are_made_of(side, crop, stride, count):
    corners = crop_corners(side, crop, stride)
    assert len(corners) == count
    np.testing.assert_array_equal(corners, crops.crop_corners(side, crop, stride))
    assert corners.dtype == np.int64


def test_offsets_of_the_nine_crops():
    assert crop_corners(1024, 512, 256).tolist()[:4] == [[0, 0], [256, 0], [512, 0], [0, 256]]


@pytest.mark.parametrize(("crop", "stride"), [(1025, 1), (0, 1), (512, 0)])
def test_crops_that_do_not_fit_are_refused(crop, stride):
    with pytest.raises(InputError, match="cannot be cut from regions of 1024 px; change crop_px or stride_px"):
        crop_corners(1024, crop, stride)


def test_regions_of_cases_in_the_order_of_the_map(files):
    store = RegionStore(*files, **SMALL)
    assert store.regions_of(["C", "B"])[["region", "case_id"]].to_numpy().tolist() == [[1, "B"], [2, "B"], [3, "C"]]


def test_crops_are_cut_where_they_should_be(files):
    store = RegionStore(*files, **SMALL)
    cut = store.cut(np.array([3, 1]), np.array([[0, 0], [5, 9]]))
    np.testing.assert_array_equal(cut[0], noise(4, 32)[3, :16, :16])
    np.testing.assert_array_equal(cut[1], noise(4, 32)[1, 9:25, 5:21])  # x is the column


def test_the_file_cannot_be_changed_through_the_map(files):
    before = files[0].read_bytes()
    RegionStore(*files, **SMALL).pixels[:] = 0
    assert files[0].read_bytes() == before


def test_a_file_of_another_size_is_refused(files):
    files[0].write_bytes(files[0].read_bytes()[:-1])
    with pytest.raises(InputError, match=r"regions.u8: does not hold the 4 regions of 32 × 32 px that .*pack the reg"):
        RegionStore(*files, **SMALL)


def test_a_file_that_is_not_there_is_refused(files):
    files[0].unlink()
    with pytest.raises(InputError, match=r"regions\.u8: does not hold the 4 regions"):
        RegionStore(*files, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.drop(columns=["case_id", "side_px"]), "no column case_id, side_px; pack the regions"),
        (lambda index: index.drop(columns="sha256"), "no column sha256; pack the regions again"),
        (lambda index: index[:0], "no slide has a region; see the exclusions in slides.parquet"),
        (lambda index: index[::-1], "is not the index of one map"),
        (lambda index: index.assign(side_px=[32, 32, 32, 16]), "is not the index of one map"),
    ],
)
def test_an_index_that_is_not_one_is_refused(files, change, message):
    change(pd.read_parquet(files[1])).to_parquet(files[1])
    with pytest.raises(InputError, match=f"index.parquet: {message}"):
        RegionStore(*files, **SMALL)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"normalise": "none"}, "normalise: 'none' is not one of imagenet, half"),
        ({"jitter": {"hues": 0.1}}, "jitter: no hues; there are brightness, contrast, saturation, hue"),
    ],
)
def test_unknown_options_are_refused(files, option, message):
    with pytest.raises(InputError, match=f"inputs: regions: {message}"):
        RegionStore(*files, **SMALL, **option)


POPULATION = pd.DataFrame(
    {"case_id": ["A", "B", "C"], "time_days": [1.0, 2.0, 3.0], "event": [1, 0, 1], "label": pd.NA}
)
SPLITS = pd.DataFrame({"split": 0, "case_id": ["A", "B", "C"], "part": ["train", "train", "test"]})
TASK = {"kind": "survival"}


def test_a_row_is_a_case_and_a_region_beside_its_genes(files, tmp_path):
    frames = {"population": POPULATION, "splits": SPLITS}
    frames["genes"] = pd.DataFrame({"case_id": ["A", "B", "C"], "x": [1.0, 2.0, 3.0]})
    paths = {"regions": files[0], "region_index": files[1]}
    for name, frame in frames.items():
        paths[name] = tmp_path / f"{name}.parquet"
        frame.to_parquet(paths[name])
    inputs = {"regions": {"regions": "mine", **SMALL}, "genes": {"standardise": False}}
    split = read_split(paths, 0, TASK, inputs)
    assert split.rows[["case_id", "part", "region"]].to_numpy().tolist() == [
        ["A", "train", 0],
        ["B", "train", 1],
        ["B", "train", 2],
        ["C", "test", 3],
    ]
    assert split.blocks["genes"].ravel().tolist() == [1, 2, 2, 3]
    assert split.target.time.tolist() == [1, 2, 2, 3]
    assert split.shapes == {"regions": (3, 8, 8), "genes": (1,)}


def test_a_case_without_a_region_is_named(files, tmp_path):
    cases = POPULATION.assign(case_id=["A", "B", "D"])
    splits = SPLITS.assign(case_id=["A", "B", "D"])
    with pytest.raises(InputError, match=r"1 cases of the task have no regions \(e.g. D\)"):
        load_split(cases, splits, 0, TASK, {"regions": SMALL}, {}, regions=RegionStore(*files, **SMALL))


def test_tiles_and_regions_do_not_go_together(files):
    store = RegionStore(*files, **SMALL)
    both = {"regions": SMALL, "tiles": {}}
    with pytest.raises(InputError, match="take tiles or regions out"):
        load_split(POPULATION, SPLITS, 0, TASK, both, {}, bags={"tiles": object()}, regions=store)

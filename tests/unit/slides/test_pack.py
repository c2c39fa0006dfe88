"""The packed map gives back every slide's features, and refuses what half precision cannot hold."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from histofuse.io import InputError, read_table, write_table
from histofuse.slides.pack import gather_slides, pack, read_features
from histofuse.slides.sheet import CELL_PX, GAP_PX, GREY, LABEL_PX, contact_sheet


def pack_into(slides, folder):
    return pack(slides, folder / "tiles.f16", folder / "index.parquet", folder / "coords.i32")


def write_directory(directory, features: dict, excluded: dict | None = None, **attributes):
    """A folder as `encode_slides` leaves it."""
    directory.mkdir()
    rows = []
    for slide_id, values in features.items():
        with h5py.File(directory / f"{slide_id}.h5", "w") as file:
            file.create_dataset("features", data=values).attrs.update(attributes)
        Image.new("RGB", (90, 300), (226, 160, 196)).save(directory / f"{slide_id}.png")
        rows.append({"slide_id": slide_id, "status": "used", "reason": ""})
    rows += [{"slide_id": i, "status": "excluded", "reason": r} for i, r in (excluded or {}).items()]
    table = pd.DataFrame(rows)
    write_table(table.assign(case_id="case-" + table["slide_id"]), directory / "slides.parquet")
    return str(directory)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(n, 6)).astype(np.float32) for name, n in {"c": 4, "a": 1, "b": 9}.items()}


def test_round_trip(tmp_path, features):
    first = write_directory(tmp_path / "1", {"c": features["c"], "b": features["b"]}, {"x": "no tissue found"})
    second = write_directory(tmp_path / "2", {"a": features["a"]})
    for order in ([first, second], [second, first]):
        slides = gather_slides(order, max_excluded=0.25)
        index = pack_into(slides, tmp_path)
        pd.testing.assert_frame_equal(index, read_table(tmp_path / "index.parquet"))
        assert index.columns.tolist() == ["slide_id", "case_id", "first_tile", "n_tiles", "dim", "side"]
        assert index["slide_id"].tolist() == ["a", "b", "c"]
        assert index["case_id"].tolist() == ["case-a", "case-b", "case-c"]
        tiles = np.memmap(tmp_path / "tiles.f16", "<f2", "r", shape=(14, 6))
        for row in index.itertuples():
            found = tiles[row.first_tile : row.first_tile + row.n_tiles]
            np.testing.assert_array_equal(found, features[row.slide_id].astype(np.float16))
    assert slides["slide_id"].tolist() == ["a", "b", "c", "x"]


def test_coordinates_follow_the_tiles(tmp_path, features):
    """In the order of the tiles, with the side of a tile in the index; -1 where a file does not tell them."""
    directory = write_directory(tmp_path / "1", features)
    places = np.random.default_rng(1).integers(0, 100_000, (9, 2))
    with h5py.File(tmp_path / "1/b.h5", "a") as file:
        file.create_dataset("coords", data=places).attrs["patch_size_level0"] = 448
    index = pack_into(gather_slides([directory], 0.0), tmp_path).set_index("slide_id")
    coords = np.memmap(tmp_path / "coords.i32", "<i4", "r").reshape(-1, 2)
    assert len(coords) == index["n_tiles"].sum()
    np.testing.assert_array_equal(coords[index.loc["b", "first_tile"] :][:9], places)
    assert (np.delete(coords, np.s_[1:10], axis=0) == -1).all()
    assert index["side"].to_dict() == {"a": -1, "b": 448, "c": -1}


@pytest.mark.parametrize(
    "coords", [np.zeros((8, 2)), np.zeros((9, 3)), np.full((9, 2), -1), np.full((9, 2), 0.5), np.full((9, 2), 2**31)]
)
def test_wrong_coordinates(tmp_path, features, coords):
    write_directory(tmp_path / "1", features)
    with h5py.File(tmp_path / "1/b.h5", "a") as file:
        file["coords"] = coords
    with pytest.raises(InputError, match=r"b\.h5: 'coords' must be pixels of level 0 \[9, 2\]"):
        read_features(tmp_path / "1/b.h5")


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (70000.0, "does not fit half")]
)
def test_values_that_half_precision_cannot_hold(tmp_path, features, value, reason):
    features["b"][3, 2] = value
    slides = gather_slides([write_directory(tmp_path / "1", features)], 0.0)
    with pytest.raises(InputError, match=f"slide b: .*{reason}"):
        pack_into(slides, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_encoders_must_not_be_mixed(tmp_path, features):
    one = write_directory(tmp_path / "1", {"a": features["a"]}, encoder_sha256="aa")
    other = write_directory(tmp_path / "2", {"b": features["b"]}, encoder_sha256="bb")
    wide = write_directory(tmp_path / "3", {"c": np.ones((2, 7), np.float32)}, encoder_sha256="aa")
    for directory, slide in ((other, "b"), (wide, "c")):
        slides = gather_slides([one, directory], 0.0)
        with pytest.raises(InputError, match=f"slide {slide}: .*same encoder"):
            pack_into(slides, tmp_path)


def test_too_many_excluded(tmp_path, features):
    directory = write_directory(tmp_path / "1", {"a": features["a"]}, {"x": "no tissue found"})
    assert len(gather_slides([directory], 0.5)) == 2
    with pytest.raises(InputError, match=r"1 of 2 slides are excluded \(x: no tissue found\).*max_excluded = 0.4"):
        gather_slides([directory], 0.4)
    with pytest.raises(InputError, match="1 of 1"):
        gather_slides([write_directory(tmp_path / "2", {}, {"y": "cut"})], 1.0)
    empty = write_directory(tmp_path / "3", {"z": features["a"]})
    write_table(read_table(tmp_path / "3/slides.parquet").iloc[:0], tmp_path / "3/slides.parquet")
    assert len(gather_slides([directory, empty], 0.5)) == 2
    for directories in ([], [empty]):
        with pytest.raises(InputError, match="no slides to pack"):
            gather_slides(directories, 1.0)


def test_a_slide_in_two_directories(tmp_path, features):
    pair = [write_directory(tmp_path / n, {"a": features["a"]}) for n in ("1", "2")]
    with pytest.raises(InputError, match="slide a was encoded twice"):
        gather_slides(pair, 0.0)


def test_features_of_other_programs(tmp_path, features):
    write_directory(tmp_path / "1", {"a": features["b"][None]})
    found = read_features(tmp_path / "1/a.h5")
    np.testing.assert_array_equal(found.values, features["b"])
    assert (found.coords.tolist(), found.side, found.weights) == ([[-1, -1]] * 9, -1, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_other_programs(tmp_path, features, dtype):
    torch.save(torch.tensor(features["b"]).to(dtype), tmp_path / "a.pt")
    found = read_features(tmp_path / "a.pt")
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, features["b"], rtol=1e-2)
    assert (found.coords == -1).all()


def test_tensors_that_are_none(tmp_path):
    (tmp_path / "a.pt").write_text("text")
    torch.save({"features": torch.zeros(2, 3)}, tmp_path / "b.pt")
    torch.save(torch.zeros(2, 3, dtype=torch.int64), tmp_path / "c.pt")
    torch.save(tmp_path, tmp_path / "d.pt")  # a pickled object of another class
    for name, reason in {"a": "cannot be read", "b": "holds dict", "c": "must be numbers", "d": "cannot be"}.items():
        with pytest.raises(InputError, match=rf"{name}\.pt: .*{reason}"):
            read_features(tmp_path / f"{name}.pt")


@pytest.mark.parametrize(
    "values", [np.zeros((0, 6)), np.zeros(6), np.zeros((2, 3, 6)), np.zeros((2, 6), int), [b"text"]]
)
def test_features_of_the_wrong_shape_or_type(tmp_path, values):
    write_directory(tmp_path / "1", {"a": values})
    with pytest.raises(InputError, match=r"a\.h5: 'features' must be"):
        read_features(tmp_path / "1/a.h5")


def test_files_that_hold_no_features(tmp_path):
    (tmp_path / "a.h5").write_text("text")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["coords"] = [1]
    for name in ("a.h5", "b.h5", "absent.h5"):
        with pytest.raises(InputError, match=f"{name}: cannot be read as HDF5"):
            read_features(tmp_path / name)


def test_contact_sheet_shows_pictures_and_reasons(tmp_path, features):
    directory = write_directory(tmp_path / "1", features, {"x": "no tissue found"})
    sheet = np.asarray(contact_sheet(gather_slides([directory], 1.0)))
    assert sheet.shape[1] == 4 * 208 + 8
    assert (sheet[108, 108] == (226, 160, 196)).all()  # the middle of the first slide
    excluded = sheet[8:208, 8 + 3 * 208 : 4 * 208]
    assert 0.9 < (excluded == GREY).all(axis=2).mean() < 1  # grey with some writing


def test_contact_sheet_of_a_large_cohort(tmp_path):
    values = {f"u{i:03d}": np.ones((1, 2), np.float32) for i in range(150)}
    directory = write_directory(tmp_path / "1", values, {f"e{i:03d}": "cut" for i in range(50)})
    sheet = contact_sheet(gather_slides([directory], 1.0))
    row = CELL_PX + LABEL_PX + GAP_PX
    assert sheet.size == (10 * 208 + 8, 6 * row + 8)
    greys = (np.asarray(sheet)[100::row, 20::208] == GREY).all(axis=2)
    assert greys.sum() == 20

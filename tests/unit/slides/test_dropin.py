"""Features made by TRIDENT and CLAM: found by slide id, checked, linked, and packed like our own."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from histofuse.io import InputError, write_table
from histofuse.slides.dropin import link_features
from histofuse.slides.naming import Names, short_name, slide_name
from histofuse.slides.pack import gather_slides, pack
from histofuse.slides.reader import SlideError
from histofuse.slides.sheet import contact_sheet

FILE_ID = "23b6e12e-dfc1-4c6f-903e-170038a0e055"
OTHER_ID = "F82901CA-7C4E-45EC-BF2D-A5F2AB243896"
BARCODE = "TCGA-06-0174-01Z-00-DX3"


def values(n, dim=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def grid(n, side=512):
    return np.stack([np.arange(n) % 4, np.arange(n) // 4], axis=1) * side


def write_trident(folder, features: dict, batch_axis=False):
    """A folder of features as TRIDENT writes it; older versions put another axis first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in features.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["features"] = array[None] if batch_axis else array
            attributes = {"patch_size": 224, "patch_size_level0": 512, "level0_magnification": 40, "overlap": 0}
            file.create_dataset("coords", data=grid(len(array))).attrs.update(attributes)


def write_clam(folder, features: dict, hdf5=True):
    """Folders as CLAM's extract_features writes them."""
    (folder / "pt_files").mkdir(parents=True)
    (folder / "h5_files").mkdir()
    for name, array in features.items():
        torch.save(torch.from_numpy(array), folder / "pt_files" / f"{name}.pt")
        if hdf5:
            with h5py.File(folder / "h5_files" / f"{name}.h5", "w") as file:
                file["features"], file["coords"] = array, grid(len(array))


def cases(*slides):
    """Cases with the lists of slides given."""
    return pd.DataFrame({"case_id": [f"C{i}" for i in range(len(slides))], "slides": [list(s) for s in slides]})


def packed(directory, table, tmp_path):
    """{slide id: (features, coords)} after packing, and the index."""
    write_table(table, directory / "slides.parquet")
    slides = gather_slides([directory], 1.0)
    index = pack(slides, tmp_path / "tiles.f16", tmp_path / "index.parquet", tmp_path / "coords.i32")
    tiles = np.fromfile(tmp_path / "tiles.f16", "<f2").reshape(-1, index["dim"].iloc[0])
    coords = np.fromfile(tmp_path / "coords.i32", "<i4").reshape(-1, 2)
    cut = {row.slide_id: slice(row.first_tile, row.first_tile + row.n_tiles) for row in index.itertuples()}
    return {slide: (tiles[part], coords[part]) for slide, part in cut.items()}, index, slides


@pytest.mark.parametrize("batch_axis", [False, True])
def test_trident(tmp_path, batch_axis):
    features = {"a": values(7), "b": values(3, seed=1)}
    write_trident(tmp_path / "uni", features, batch_axis)
    table = link_features(cases(["b"], [], ["a"]), tmp_path / "uni", tmp_path / "out")
    found, index, slides = packed(tmp_path / "out", table, tmp_path)
    assert index["case_id"].tolist() == ["C2", "C0"]
    assert index["side"].tolist() == [512, 512]
    for name, array in features.items():
        np.testing.assert_array_equal(found[name][0], array.astype(np.float16))
        np.testing.assert_array_equal(found[name][1], grid(len(array)))
    assert (tmp_path / "out/a.h5").is_symlink()
    picture = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert (picture[5, 5] == (0, 158, 115)).all()  # the first tile of four in the first row, three in the second
    assert (picture[70, 250] == 255).all()
    assert contact_sheet(slides).size[0] > 400


@pytest.mark.parametrize("hdf5", [True, False])
def test_clam(tmp_path, hdf5):
    features = {"a": values(5), "b": values(2, seed=1)}
    write_clam(tmp_path / "clam", features, hdf5)
    table = link_features(cases(["a", "b"]), tmp_path / "clam", tmp_path / "out")
    found, index, _ = packed(tmp_path / "out", table, tmp_path)
    for name, array in features.items():
        np.testing.assert_array_equal(found[name][0], array.astype(np.float16))
        np.testing.assert_array_equal(found[name][1], grid(len(array)) if hdf5 else -1)
    assert index["side"].tolist() == [-1, -1]  # CLAM's features do not tell it
    assert {p.name for p in (tmp_path / "out").glob("a.*")} == {"a.h5" if hdf5 else "a.pt", "a.png"}


def test_names_with_and_without_tcgas_file_id(tmp_path):
    write_trident(tmp_path / "uni", {BARCODE: values(2), f"TCGA-HT-7470-01Z-00-DX4.{OTHER_ID}": values(3)})
    ids = [f"{BARCODE}.{FILE_ID}", f"TCGA-HT-7470-01Z-00-DX4.{OTHER_ID.lower()}"]
    table = link_features(cases(ids), tmp_path / "uni", tmp_path / "out")
    assert table["n_tiles"].tolist() == [2, 3]
    assert (tmp_path / f"out/{BARCODE}.{FILE_ID}.h5").is_symlink()


def test_an_exact_name_comes_first(tmp_path):
    """Two slides could have the file without an id; it is neither's, but for the slide that bears its name."""
    write_trident(tmp_path / "uni", {BARCODE: values(2)})
    ids = [f"{BARCODE}.{FILE_ID}", f"{BARCODE}.{OTHER_ID}"]
    with_own = link_features(cases([*ids, BARCODE]), tmp_path / "uni", tmp_path / "1").set_index("slide_id")
    assert with_own["status"].to_dict() == {BARCODE: "used", ids[0]: "excluded", ids[1]: "excluded"}
    without = link_features(cases(ids), tmp_path / "uni", tmp_path / "2")
    assert without["reason"].str.contains("could be its own or another slide's").all()


def test_names():
    names = Names(["slide.1", f"{BARCODE}.{FILE_ID}", f"{BARCODE}.{OTHER_ID}", f"X.{FILE_ID}"])
    assert names.find("slide.1") == "slide.1"
    assert names.find("SLIDE.1") == "slide.1"
    assert names.find("slide.2") is None  # a dot makes no file id
    assert names.find("X") == f"X.{FILE_ID}"
    assert names.find(f"X.{OTHER_ID}") is None  # another file of the slide
    with pytest.raises(SlideError, match="could all be meant"):
        names.find(BARCODE)
    assert short_name(f"{BARCODE}.{FILE_ID}_1") == f"{BARCODE}_1"  # a region of Pathomic Fusion
    assert slide_name(f"a/{BARCODE}.{FILE_ID}.SVS") == f"{BARCODE}.{FILE_ID}"
    assert slide_name("slide.1") == "slide.1"


def test_bad_files_are_set_aside_with_reasons(tmp_path):
    folder = tmp_path / "uni"
    write_trident(folder, {"good": values(4), "nan": np.full((2, 6), np.nan, np.float32), "flat": values(4)[0]})
    write_trident(folder, {"huge": np.full((2, 6), 1e6, np.float32)})
    whole = (folder / "good.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "page.h5").write_text("<html>")
    with h5py.File(folder / "grid.h5", "w") as file:
        file["coords"] = grid(4)
    with h5py.File(folder / "shifted.h5", "w") as file:
        file["features"], file["coords"] = values(4), grid(3)
    torch.save({"a": 1}, folder / "dict.pt")
    reasons = {
        "absent": f"no features in {folder}",
        "cut": "cannot be read as HDF5",
        "dict": "holds dict",
        "flat": "must be numbers",
        "grid": "cannot be read as HDF5 with a dataset 'features'",
        "huge": "does not fit half precision",
        "nan": "nan.h5: its features hold NaN",
        "page": "cannot be read as HDF5",
        "shifted": "'coords' must be",
    }
    table = link_features(cases([*reasons, "good"]), folder, tmp_path / "out").set_index("slide_id")
    assert table["status"].to_dict() == dict.fromkeys(reasons, "excluded") | {"good": "used"}
    for name, reason in reasons.items():
        assert reason in table.loc[name, "reason"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.h5", "good.png"]
    write_table(table.reset_index(), tmp_path / "out/slides.parquet")
    with pytest.raises(InputError, match="9 of 10 slides are excluded"):
        gather_slides([tmp_path / "out"], 0.2)


def test_widths_must_not_be_mixed(tmp_path):
    write_trident(tmp_path / "uni", {"a": values(2), "b": values(2), "c": values(2, dim=8)})
    with pytest.raises(InputError, match=r"slide c have width 8, those of slide a \(and of 2 of 3 slides\) 6"):
        link_features(cases(["a", "b", "c"]), tmp_path / "uni", tmp_path / "out")


def test_wrong_folders_and_cases(tmp_path):
    write_trident(tmp_path / "uni", {"a": values(2)})
    (tmp_path / "empty").mkdir()
    for folder, reason in {"absent": "no such folder", "empty": "holds no .h5 or .pt"}.items():
        with pytest.raises(InputError, match=reason):
            link_features(cases(["a"]), tmp_path / folder, tmp_path / "out")
    for reason, table in {
        "name no slides": cases([], []),
        "slide a belongs to more than one case": cases(["a"], ["a"]),
        "is no name of a file": cases(["../a"]),
    }.items():
        with pytest.raises(InputError, match=reason):
            link_features(table, tmp_path / "uni", tmp_path / "out")

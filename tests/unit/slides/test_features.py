"""Features on disk: the layout, the same bytes every time, and damaged slides set aside with a reason."""

from pathlib import Path

import h5py
import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from PIL import Image

from histofuse.bags import repeat_index
from histofuse.io import InputError, sha256
from histofuse.models.torchvision_shim import ensure_torchvision
from histofuse.slides.encoder_models import start_at_random
from histofuse.slides.encoders import load_encoder
from histofuse.slides.features import COLUMNS, encode_slide, encode_slides
from histofuse.slides.reader import open_slide
from histofuse.slides.stream import Readers


@pytest.fixture
def encode(settings, encoder, tmp_path):
    """Encode a slide as S1 into a folder of its own."""

    def run(path, folder="out", processes=0, encoder=encoder, **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        with Readers(processes) as readers:
            return encode_slide(path, "S1", settings | changes, encoder, tmp_path / folder, readers)

    return run


def test_layout_is_tridents(write_slide, encode, encoder, tmp_path):
    path = write_slide()
    row = encode(path)
    with h5py.File(tmp_path / "out/S1.h5") as file:
        assert set(file) == {"features", "coords"}
        features, coords, attributes = file["features"][()], file["coords"][()], dict(file["coords"].attrs)
        assert file["features"].attrs["encoder_sha256"] == encoder.digest
    assert features.dtype == np.float32
    assert features.shape == (row["n_tiles"], encoder.dim)
    assert coords.dtype == np.int64
    assert {k: attributes[k] for k in ("patch_size", "patch_size_level0", "overlap")} == {
        "patch_size": 160, "patch_size_level0": 160, "overlap": 0,
    }  # fmt: skip
    assert attributes["level0_magnification"] == attributes["target_magnification"] == 20
    assert (attributes["name"], attributes["level0_width"]) == ("S1", 1024)
    # What is stored at a place is what the encoder says of that place.
    with open_slide(path) as slide:
        tile = slide.read(*coords[7], 160, 0.5)
    np.testing.assert_allclose(encoder.encode(tile[None])[0], features[7], rtol=1e-4, atol=1e-5)


def test_tiles_and_row_follow_from_the_tissue(write_slide, encode, tmp_path):
    row = encode(write_slide())
    with h5py.File(tmp_path / "out/S1.h5") as file:
        coords = file["coords"][()]
    centres = coords + 80 - 512
    inside = np.hypot(*centres.T)
    assert inside.max() < 0.4 * 1024 + 20  # a tile that is half tissue has its centre about inside the disk
    assert {(x, y) for x, y in coords.tolist()} >= {(x, y) for x in (320, 480) for y in (320, 480, 640)}
    expected = {"slide_id": "S1", "status": "used", "reason": "", "width": 1024, "height": 1024, "mpp": 0.5}
    assert {key: row[key] for key in expected} == expected
    assert row["n_tiles"] == len(coords)
    assert row["tissue_fraction"] == pytest.approx(np.pi * 0.4**2, rel=0.04)


def test_same_bytes_every_time(write_slide, encode, settings, tmp_path):
    path = write_slide()
    encode(path, "first")
    encode(path, "again")
    encode(path, "one", processes=1)
    encode(path, "two", processes=2)
    encode(path, "batch", encoder=load_encoder(settings | {"batch": 5}), batch=5)
    for folder in ("again", "one", "two", "batch"):
        for name in ("S1.h5", "S1.png", "S1.thumbnail.jpg"):
            assert sha256(tmp_path / folder / name) == sha256(tmp_path / "first" / name)


def test_large_slides_are_thinned_by_the_repeat_rule(write_slide, encode, tmp_path):
    path = write_slide()
    n = encode(path)["n_tiles"]
    assert encode(path, "thin", max_tiles=7)["n_tiles"] == 7
    with h5py.File(tmp_path / "out/S1.h5") as whole, h5py.File(tmp_path / "thin/S1.h5") as thin:
        kept = repeat_index(n, 7)
        np.testing.assert_array_equal(thin["coords"][()], whole["coords"][()][kept])
        np.testing.assert_allclose(thin["features"][()], whole["features"][()][kept], rtol=1e-4, atol=1e-5)


def test_magnification_decides_how_much_a_tile_covers(write_slide, encode, tmp_path):
    path = write_slide(fields="AppMag = 40|MPP = 0.2500")
    encode(path)
    with h5py.File(tmp_path / "out/S1.h5") as file:
        assert file["coords"].attrs["patch_size_level0"] == 320
        assert file["coords"].attrs["level0_magnification"] == 40
        assert np.unique(file["coords"][:, 0] % 320) == [0]


def test_an_override_mends_a_silent_file(write_slide, encode):
    path = write_slide(fields="")
    assert encode(path)["reason"].startswith("no magnification")
    row = encode(path, mpp_overrides={"S1": 0.5, "S2": 0.25})
    assert (row["status"], row["mpp"]) == ("used", 0.5)


def test_kept_tiles_are_those_that_were_encoded(write_slide, encode, encoder, tmp_path):
    encode(write_slide(), keep_tiles=True)
    with h5py.File(tmp_path / "out/S1.tiles.h5") as file, h5py.File(tmp_path / "out/S1.h5") as features:
        tiles, features = file["tiles"][()], features["features"][()]
    assert (tiles.dtype, tiles.shape[1:]) == (np.uint8, (160, 160, 3))
    np.testing.assert_array_equal(encoder.encode(tiles), features)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_slide_that_fails_half_way_leaves_nothing(write_slide, encode, tmp_path, processes):
    path = write_slide(reductions=(4,))
    with open_slide(path) as slide:
        assert slide.levels == (1, 4)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5000] = bytes(5000)  # in the first level; the mask reads the second
    path.write_bytes(content)
    row = encode(path, processes=processes, keep_tiles=True)
    assert row["status"] == "excluded"
    assert row["reason"].startswith("damaged")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_source_says_what_a_file_does_not(write_slide, settings, encoder, tmp_path):
    write_slide(fields="", name="a.svs")
    receipt = pd.DataFrame({"filename": ["a.svs"], "path": [str(tmp_path / "a.svs")], "case_id": ["1"], "mpp": ["0.5"]})
    assert encode_slides(receipt, settings, encoder, tmp_path)["mpp"].tolist() == [0.5]
    corrected = settings | {"mpp_overrides": {"a": 0.25}}
    assert encode_slides(receipt, corrected, encoder, tmp_path)["mpp"].tolist() == [0.25]


def test_picture_shows_tissue_and_tiles(write_slide, encode, tmp_path):
    encode(write_slide())
    picture = np.asarray(Image.open(tmp_path / "out/S1.png"))
    assert 200 < (picture == (0, 114, 178)).all(axis=2).sum() < 6000
    assert (picture[128, :] == (0, 158, 115)).all(axis=1).sum() >= 4
    assert Image.open(tmp_path / "out/S1.thumbnail.jpg").size == (64, 64)


def test_bad_slides_are_set_aside_with_reasons(write_slide, settings, encoder, tmp_path):
    whole = write_slide(name="good.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.svs").write_text("<html>no such file</html>")
    write_slide(name="silent.svs", fields="")
    write_slide(np.full((1024, 1024, 3), 243, np.uint8), name="glass.svs")
    speck = np.full((1024, 1024, 3), 243, np.uint8)
    speck[100:900, 150:290] = (226, 160, 196)
    write_slide(speck, name="speck.svs")
    names = ["cut", "page", "silent", "good", "glass", "speck"]
    receipt = pd.DataFrame({"filename": [f"{n}.svs" for n in names], "case_id": [f"C-{n}" for n in names]})
    receipt["path"] = [str(tmp_path / name) for name in receipt["filename"]]
    rows = encode_slides(receipt, settings | {"min_tissue": 0.9}, encoder, tmp_path / "out").set_index("slide_id")

    assert rows.reset_index().dtypes.astype(str).to_dict() == {
        k: v.replace("str", "object") for k, v in COLUMNS.items()
    }
    assert rows.index.tolist() == names
    assert rows["case_id"].tolist() == receipt["case_id"].tolist()
    assert rows["status"].tolist() == ["excluded"] * 3 + ["used"] + ["excluded"] * 2
    for name, reason in {
        "cut": "",
        "page": "cannot be opened",
        "silent": "no magnification",
        "glass": "no tissue found",
        "speck": "no tile is at least 90% tissue",
    }.items():
        assert reason in rows.loc[name, "reason"]
        assert len(rows.loc[name, "reason"]) > 10
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.h5", "good.png", "good.thumbnail.jpg"]
    assert pd.isna(rows.loc["page", "width"])
    assert rows.loc["glass", "tissue_fraction"] == 0


def test_a_receipt_with_a_slide_twice_is_refused(settings, encoder, tmp_path):
    receipt = pd.DataFrame({"filename": ["a.svs", "a.svs"], "path": ["x/a.svs", "y/a.svs"], "case_id": ["1", "2"]})
    with pytest.raises(InputError, match="slide a more than once"):
        encode_slides(receipt, settings, encoder, tmp_path)


def test_the_real_slide(real_slide, encode, tmp_path):
    row = encode(real_slide, tile_px=224)
    # By eye: the piece covers some 35 to 40 % of the picture.
    assert 0.33 < row["tissue_fraction"] < 0.42
    assert 40 <= row["n_tiles"] <= 50
    assert Path(tmp_path / "out/S1.png").stat().st_size > 50_000


@pytest.mark.parametrize(("mpp", "factor"), [(0.5, 1), (1.0, 2)])
def test_the_real_slide_by_the_plain_road(real_slide, settings, tmp_path, mpp, factor):
    """OpenSlide, Pillow and timm as anybody would put them together, at full and at half resolution."""
    chosen = settings | {"encoder": "resnet50-stage3", "tile_px": 224, "mpp": mpp, "max_tiles": 5}
    encoder = load_encoder(chosen)
    assert encode_slide(real_slide, "S1", chosen, encoder, tmp_path)["n_tiles"] == 5
    with h5py.File(tmp_path / "S1.h5") as file:
        features, coords = file["features"][()], file["coords"][()]

    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50.tv_in1k", features_only=True, out_indices=(3,)).eval()
    start_at_random(model)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    side = 224 * factor
    with openslide.OpenSlide(real_slide) as slide, torch.inference_mode():
        tiles = [slide.read_region(tuple(corner), 0, (side, side)).convert("RGB").reduce(factor) for corner in coords]
        images = torch.stack([torch.from_numpy(np.asarray(tile) / np.float32(255)).permute(2, 0, 1) for tile in tiles])
        expected = model((images - mean) / std)[0].mean((2, 3)).numpy()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_the_real_slide_gives_the_same_bytes(real_slide, encode, tmp_path):
    stain = {"method": "vahadane", "target": "default", "pixels": 100_000, "seed": 0, "fallback": "none"}
    for folder, processes in (("first", 0), ("again", 0), ("one", 1), ("two", 2)):
        row = encode(real_slide, folder, processes, tile_px=224, stain=stain)
        assert row["stain_moved_degrees"] < 0.01  # converged
    digests = {sha256(path) for path in tmp_path.glob("*/S1.h5")}
    assert len(digests) == 1

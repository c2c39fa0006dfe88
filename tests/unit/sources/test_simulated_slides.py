"""Slides of the simulated cohort: Aperio's format, the damaged ones, and the look that follows the factors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from histofuse.sources.simulated import Settings, simulate
from histofuse.sources.simulated.cohort import draw_case
from histofuse.sources.simulated.slides import Look, blank, look_of, render
from histofuse.sources.simulated.svs import write_svs
from histofuse.sources.simulated.write import DAMAGES, damaged_slides

PLAIN = {"nuclei": 1700.0, "pleomorphism": 0.5, "grain": 0.3, "infiltrated": 0.1, "necrotic": 0.0, "nesting": 0.5}
PLAIN |= {"codel": False}


def optical_density(image: np.ndarray) -> np.ndarray:
    return -np.log((image.astype(float) + 1) / 246)


def dark(image: np.ndarray) -> float:
    """Share of the tissue that is nucleus: eosin hardly absorbs red."""
    density = optical_density(image)
    return float((density[..., 0] > 0.45).sum() / (density[..., 1] > 0.15).sum())


@pytest.fixture(scope="module")
def svs(tmp_path_factory) -> tuple[np.ndarray, Path]:
    image = render(Look(**PLAIN), 1300, np.random.default_rng(1))
    path = tmp_path_factory.mktemp("svs") / "slide.svs"
    write_svs(image, path, name="slide", mpp=0.499, magnification=20)
    return image, path


def test_openslide_reads_an_aperio_pyramid(svs):
    image, path = svs
    slide = openslide.OpenSlide(path)
    properties = slide.properties
    assert properties["openslide.vendor"] == "aperio"
    assert float(properties["openslide.mpp-x"]) == 0.499
    assert properties["openslide.objective-power"] == "20"
    assert properties["openslide.level[0].tile-width"] == "256"
    assert slide.level_dimensions == ((1300, image.shape[0]), (325, image.shape[0] // 4 + (image.shape[0] % 4 > 0)))
    assert set(slide.associated_images) == {"thumbnail"}


def test_pixels_survive_the_jpeg(svs):
    image, path = svs
    slide = openslide.OpenSlide(path)
    read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(int)
    assert np.abs(read - image).mean() < 6
    smaller = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB")).astype(int)
    assert np.abs(smaller - np.asarray(Image.fromarray(image).reduce(4)).astype(int)).mean() < 6


def test_three_kinds_of_damage(tmp_path):
    settings = {"cases": 6, "seed": 4, "genes": 230, "slide_pixels": 1024, "missing": 0.0, "broken_slides": 3}
    simulate(settings, tmp_path / "cohort")
    manifest = pd.read_csv(tmp_path / "cohort/manifest.tsv", sep="\t", keep_default_na=False)
    truth = pd.read_parquet(tmp_path / "cohort/truth.parquet").set_index("case_id")
    assert sorted(truth["damage"][truth["damage"] != ""]) == sorted(DAMAGES)
    for row in manifest[manifest["kind"] == "slide"].itertuples():
        path = tmp_path / "cohort" / row.url.removeprefix("https://")
        damage = truth.loc[row.case_id, "damage"]
        if damage == "truncated":
            with pytest.raises(openslide.OpenSlideError):
                openslide.OpenSlide(path)
            continue
        slide = openslide.OpenSlide(path)
        keys = {"openslide.mpp-x", "aperio.MPP", "aperio.AppMag", "openslide.objective-power"}
        assert bool(keys & set(slide.properties)) == (damage != "no resolution")
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        tissue = (optical_density(pixels)[..., 1] > 0.15).mean()
        assert tissue < 0.001 if damage == "no tissue" else 0.2 < tissue < 0.8


def test_damage_takes_the_kinds_in_turn():
    class OneSlide:
        def __init__(self, k):
            self.slides = (f"s{k}",)

    cases = [OneSlide(k) for k in range(20)]
    assert damaged_slides(cases, 4) == {
        "s3": "truncated",
        "s10": "no resolution",
        "s17": "no tissue",
        "s0": "truncated",
    }


def test_background_is_white_and_tissue_is_pink():
    image = render(Look(**PLAIN), 1024, np.random.default_rng(0))
    corner = image[:20, :20].reshape(-1, 3)
    assert corner.min() > 230
    red, green, blue = image[optical_density(image)[..., 1] > 0.15].mean(0)
    assert red > blue > green
    assert blank(600, np.random.default_rng(0)).mean() > 230


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [("nuclei", 700.0, 4000.0), ("infiltrated", 0.02, 0.45)],
)
def test_more_cells_make_a_darker_slide(change, low, high):
    shares = [
        [dark(render(Look(**(PLAIN | {change: value})), 1024, np.random.default_rng(seed))) for seed in range(6)]
        for value in (low, high)
    ]
    assert max(shares[0]) < min(shares[1])


def test_necrosis_takes_its_share_of_the_nuclei_away():
    def empty(necrotic, seed):
        """Share of the tissue, in blocks of 32 µm, that holds no nucleus."""
        look = Look(**(PLAIN | {"nuclei": 4000.0, "necrotic": necrotic, "infiltrated": 0.0}))
        density = optical_density(render(look, 1536, np.random.default_rng(seed))).astype(np.float32)
        tissue, nuclei = (
            np.asarray(Image.fromarray(mask.astype(np.float32)).reduce(64))
            for mask in (density[..., 1] > 0.12, density[..., 0] > 0.45)
        )
        return (nuclei[tissue > 0.8] < 0.01).mean()

    without, with_it = [empty(0.0, seed) for seed in range(4)], [empty(0.3, seed) for seed in range(4)]
    assert np.mean(with_it) - np.mean(without) == pytest.approx(0.25, abs=0.08)


def band(image: np.ndarray, shortest: float, longest: float) -> float:
    """Standard deviation of optical density (green) at wavelengths between the two, in pixels, inside the tissue."""
    height, width = (side // 4 for side in image.shape[:2])
    density = optical_density(image[height:-height, width:-width])[..., 1]
    spectrum = np.fft.fft2(density - density.mean())
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in density.shape), indexing="ij"))
    wanted = (frequency > 1 / longest) & (frequency <= 1 / shortest)
    return float(np.sqrt((np.abs(spectrum[wanted]) ** 2).sum()) / density.size)


def halved(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).reduce(2))


def change_of_bands(before: dict, after: dict) -> np.ndarray:
    """Mean change of three log bands: 1 to 2 µm at 0.5 µm/px, 2 to 4 and 50 to 110 µm at 1.0."""
    ratios = []
    for seed in range(5):
        first, second = (render(Look(**(PLAIN | part)), 1400, np.random.default_rng(seed)) for part in (before, after))
        fine = [np.log(band(image, 2, 4)) for image in (first, second)]
        fine_halved = [np.log(band(halved(image), 2, 4)) for image in (first, second)]
        wide = [np.log(band(halved(image), 50, 110)) for image in (first, second)]
        ratios.append([np.diff(values)[0] for values in (fine, fine_halved, wide)])
    return np.mean(ratios, axis=0)


def test_grain_is_seen_at_half_a_micrometre_and_hardly_at_one():
    fine, fine_halved, _ = change_of_bands({"grain": 0.0}, {"grain": 0.7})
    assert fine > 0.1
    assert fine > 2 * abs(fine_halved)


def test_nests_are_seen_at_a_scale_that_only_a_tile_at_one_micrometre_holds():
    fine, _, wide = change_of_bands({"nesting": 0.0}, {"nesting": 1.5})
    assert wide > 0.2
    assert wide > 2 * abs(fine)


def test_both_signs_follow_what_slides_see_of_the_factors():
    case = draw_case(Settings(seed=1), 0)
    looks = {
        (t, m): look_of(replace(case, seen={"slides": {"tumour": t, "microenvironment": m}}))
        for t in (-1.0, 1.0)
        for m in (-1.0, 1.0)
    }
    assert looks[-1, 1].grain == looks[-1, -1].grain < looks[1, -1].grain
    assert looks[1, -1].nesting == looks[-1, -1].nesting < looks[-1, 1].nesting


def test_stains_differ_from_slide_to_slide():
    colours = []
    for seed in range(8):
        image = render(Look(**PLAIN), 600, np.random.default_rng(seed))
        colours.append(image[optical_density(image)[..., 1] > 0.15].mean(0))
    assert np.std(colours, axis=0).max() > 3

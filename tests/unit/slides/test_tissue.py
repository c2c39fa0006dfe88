"""The tissue mask finds what is stained and nothing else."""

import cv2
import numpy as np
import pytest

from histofuse.slides.tissue import otsu_threshold, outline, tissue_mask

PINK, GLASS = (226, 160, 196), (244, 243, 244)


def canvas(side: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.clip(np.full((side, side, 3), GLASS) + rng.normal(0, 1.5, (side, side, 3)), 0, 255).astype(np.uint8)


def disk(side: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] - side / 2
    return rows**2 + columns**2 < radius**2


@pytest.mark.parametrize("seed", range(4))
def test_otsu_agrees_with_opencv(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(40, 10, 3000), rng.normal(150, 30, 500 * (seed + 1))]).clip(0, 255)
    expected, _ = cv2.threshold(values.astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    assert otsu_threshold(values.astype(np.uint8)) == expected


def test_a_stained_disk_is_found_as_it_is():
    image, expected = canvas(), disk(200, 60)
    image[expected] = PINK
    found = tissue_mask(image, 8.0)
    assert (found & expected).sum() / (found | expected).sum() > 0.96


@pytest.mark.parametrize("colour", [PINK, (92, 58, 140), (240, 222, 232)], ids=["eosin", "nuclei", "pale necrosis"])
def test_a_slide_full_of_tissue_is_all_tissue(colour):
    image = np.full((120, 120, 3), colour, np.uint8)
    assert tissue_mask(image, 8.0).all()


def test_two_stains_are_both_tissue():
    image = np.full((120, 120, 3), PINK, np.uint8)
    image[:, 60:] = (92, 58, 140)  # Otsu alone would cut between the two
    assert tissue_mask(image, 8.0).all()


def test_glass_ink_and_dust_are_not_tissue():
    assert not tissue_mask(canvas(), 8.0).any()
    image = canvas()
    image[20:60, 20:160] = (25, 25, 28)  # black ink
    image[100:104, 100:104] = PINK  # 32 µm of dust
    assert not tissue_mask(image, 8.0).any()


def test_what_is_left_out_is_no_tissue_and_changes_nothing_else():
    image, expected = canvas(), disk(200, 80)
    image[expected] = PINK
    plain = tissue_mask(image, 8.0)
    ink = np.zeros(image.shape[:2], bool)
    ink[90:100] = True
    image[ink] = (20, 30, 220)
    found = tissue_mask(image, 8.0, ink)
    far = np.r_[:87, 103:200]  # beyond the reach of smoothing and closing
    np.testing.assert_array_equal(found[far], plain[far])
    assert not found[ink].any()
    assert not tissue_mask(image, 8.0, np.ones_like(ink)).any()


def test_small_holes_are_filled_and_large_ones_kept():
    image = canvas()
    image[disk(200, 80)] = PINK
    image[100:112, 60:72] = GLASS  # 96 µm
    image[60:100, 100:140] = GLASS  # 320 µm
    found = tissue_mask(image, 8.0)
    assert found[106, 66]
    assert not found[80, 120]


def test_tissue_may_run_off_the_slide():
    image = canvas()
    image[:, :80] = PINK
    found = tissue_mask(image, 8.0)
    assert found[:, :79].all()
    assert not found[:, 82:].any()


def test_outline_is_the_rim():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    rim = outline(mask)
    assert rim.sum() == 16
    assert not rim[3:6, 3:6].any()

"""The contact sheet shows what was used and how good it is, and what was set aside and why."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofuse.slides.picture import RULE
from histofuse.slides.sheet import CELL_PX, FAULTS, GREY, LABEL_PX, _cut, _figures, contact_sheet

PINK = (226, 160, 196)
STEP_X, STEP_Y = CELL_PX + 8, CELL_PX + LABEL_PX + 8


@pytest.fixture
def cohort(tmp_path):
    """A function that writes the pictures of `used` slides and returns the table with `excluded` ones beneath."""

    def write(used: list[str], excluded: dict | None = None, **columns) -> pd.DataFrame:
        for slide_id in used:
            Image.new("RGB", (90, 300), PINK).save(tmp_path / f"{slide_id}.png")
        rows = [{"slide_id": slide_id, "status": "used", "reason": ""} | columns for slide_id in used]
        rows += [{"slide_id": i, "status": "excluded", "reason": reason} for i, reason in (excluded or {}).items()]
        return pd.DataFrame(rows).assign(directory=str(tmp_path))

    return write


def test_pictures_and_reasons(cohort):
    sheet = np.asarray(contact_sheet(cohort(["a", "b", "c"], {"x": "no tissue found"}, n_tiles=12)))
    assert sheet.shape == (STEP_Y + 8, 4 * STEP_X + 8, 3)
    assert (sheet[108, 108] == PINK).all()  # the middle of the first slide
    excluded = sheet[8:208, 8 + 3 * STEP_X : 4 * STEP_X]
    assert 0.9 < (excluded == GREY).all(axis=2).mean() < 1  # grey with some writing
    for line in (slice(210, 224), slice(225, 240)):  # the id, and the figures beneath it
        assert (sheet[line, 8:50] < 100).any()


def test_a_large_cohort(cohort):
    used, excluded = [f"u{i:03d}" for i in range(150)], {f"e{i:03d}": "cut" for i in range(50)}
    sheet = contact_sheet(cohort(used, excluded))
    assert sheet.size == (10 * STEP_X + 8, 6 * STEP_Y + 8)
    greys = (np.asarray(sheet)[100::STEP_Y, 20::STEP_X] == GREY).all(axis=2)
    assert greys.sum() == 20


def test_legends_are_left_out(cohort, tmp_path):
    slides = cohort(["a"])
    picture = np.full((300, 300, 3), PINK, np.uint8)
    picture[200] = RULE
    picture[201:] = (0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "a.png")
    sheet = np.asarray(contact_sheet(slides))
    assert (sheet == PINK).all(axis=2).sum() > 0.6 * CELL_PX**2
    assert not (sheet == (0, 0, 255)).all(axis=2).any()


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"n_tiles": 1204, "blurred_fraction": 0.12, "pen_fraction": 0.05}, "1,204 tiles, 12% blurred"),
        ({"n_tiles": 3, "blurred_fraction": 0.12, "pen_fraction": 0.5}, "3 tiles, 50% ink"),
        ({"n_tiles": 3, "fold_fraction": 0.02, "black_fraction": np.nan}, "3 tiles, 2% folded"),
        ({"n_tiles": 3, "blurred_fraction": 0.004}, "3 tiles"),
        ({"n_tiles": pd.NA, "blurred_fraction": None}, ""),
        ({}, ""),
    ],
)
def test_figures(figures, text):
    assert _figures(figures) == text


def test_long_texts_are_cut():
    class Font:
        def getlength(self, text):
            return 10 * len(text)

    assert _cut("short", Font()) == "short"
    assert _cut("x" * 30, Font()) == "x" * 19 + "…"
    assert set(FAULTS) == {"blurred_fraction", "fold_fraction", "pen_fraction", "black_fraction"}

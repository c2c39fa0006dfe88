"""A contact sheet of a cohort's slides, to see at a glance what was used and what was set aside."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from histofuse.slides.picture import without_legend

CELL_PX, LABEL_PX, GAP_PX, COLUMNS = 200, 34, 8, 10
MAX_SLIDES, MAX_EXCLUDED = 60, 20
FONT_PX, LINE_PX = 12, 15
GREY, INK = (205, 205, 205), (30, 30, 30)
# The columns whose worst is shown beneath a used slide, where it is at least this share.
FAULTS = {
    "blurred_fraction": "blurred",
    "fold_fraction": "folded",
    "pen_fraction": "ink",
    "black_fraction": "black or missing",
}
NOTABLE = 0.01


def contact_sheet(slides: pd.DataFrame) -> Image.Image:
    """Pictures of at most 60 slides; excluded ones are grey boxes with the reason.

    Beneath each stand its id and, where the columns are there, its number of tiles and its worst quality figure.
    `slides` is what `pack.gather_slides` gives. Of more than 60 slides, up to 20 excluded ones and evenly
    spaced used ones are shown.
    """
    shown = _choose(slides)
    font = ImageFont.load_default(FONT_PX)
    n_columns = min(COLUMNS, len(shown))
    n_rows = -(-len(shown) // n_columns)
    step_x, step_y = CELL_PX + GAP_PX, CELL_PX + LABEL_PX + GAP_PX
    sheet = Image.new("RGB", (n_columns * step_x + GAP_PX, n_rows * step_y + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for position, slide in enumerate(shown.to_dict("records")):
        left = GAP_PX + position % n_columns * step_x
        top = GAP_PX + position // n_columns * step_y
        used = slide["status"] == "used"
        if used:
            with Image.open(Path(slide["directory"]) / f"{slide['slide_id']}.png") as file:
                picture = without_legend(file.convert("RGB"))
            picture.thumbnail((CELL_PX, CELL_PX))
            sheet.paste(picture, (left + (CELL_PX - picture.width) // 2, top + (CELL_PX - picture.height) // 2))
        else:
            draw.rectangle((left, top, left + CELL_PX - 1, top + CELL_PX - 1), fill=GREY)
            reason = textwrap.fill(slide["reason"], 30, max_lines=11)
            draw.multiline_text((left + 8, top + 8), reason, fill=INK, font=font)
        for line, text in enumerate((slide["slide_id"], _figures(slide) if used else "excluded")):
            draw.text((left, top + CELL_PX + 2 + line * LINE_PX), _cut(text, font), fill=INK, font=font)
    return sheet


def _figures(slide: dict) -> str:
    """The number of tiles and the worst share of what is bad, such as "1,204 tiles, 12% blurred"."""
    figures = [f"{int(slide['n_tiles']):,} tiles"] if pd.notna(slide.get("n_tiles", np.nan)) else []
    shares = {name: slide[column] for column, name in FAULTS.items() if pd.notna(slide.get(column, np.nan))}
    worst = max(shares, key=shares.get, default=None)
    if worst is not None and shares[worst] >= NOTABLE:
        figures.append(f"{shares[worst]:.0%} {worst}")
    return ", ".join(figures)


def _cut(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A text that fits beneath a picture; long ones end in an ellipsis."""
    if font.getlength(text) <= CELL_PX:
        return text
    return next(cut for k in range(len(text), -1, -1) if font.getlength(cut := f"{text[:k]}…") <= CELL_PX)


def _choose(slides: pd.DataFrame) -> pd.DataFrame:
    if len(slides) <= MAX_SLIDES:
        return slides
    excluded = slides[slides["status"] == "excluded"].head(MAX_EXCLUDED)
    used = slides[slides["status"] == "used"]
    n_used = min(MAX_SLIDES - len(excluded), len(used))
    evenly = used.iloc[np.arange(n_used) * len(used) // n_used]
    return pd.concat([excluded, evenly]).sort_index()

"""A contact sheet of a cohort's slides, to see at a glance what was used and what was set aside."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

CELL_PX, LABEL_PX, GAP_PX, COLUMNS = 200, 18, 8, 10
MAX_SLIDES, MAX_EXCLUDED = 60, 20
FONT_PX = 12
GREY, INK = (205, 205, 205), (30, 30, 30)


def contact_sheet(slides: pd.DataFrame) -> Image.Image:
    """Pictures of at most 60 slides with their ids; excluded ones are grey boxes with the reason.

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
    for position, slide in enumerate(shown.itertuples()):
        left = GAP_PX + position % n_columns * step_x
        top = GAP_PX + position // n_columns * step_y
        if slide.status == "used":
            picture = Image.open(Path(slide.directory) / f"{slide.slide_id}.png").convert("RGB")
            picture.thumbnail((CELL_PX, CELL_PX))
            sheet.paste(picture, (left + (CELL_PX - picture.width) // 2, top + (CELL_PX - picture.height) // 2))
        else:
            draw.rectangle((left, top, left + CELL_PX - 1, top + CELL_PX - 1), fill=GREY)
            reason = textwrap.fill(slide.reason, 30, max_lines=11)
            draw.multiline_text((left + 8, top + 8), reason, fill=INK, font=font)
        label = slide.slide_id if len(slide.slide_id) <= 28 else slide.slide_id[:27] + "…"
        draw.text((left, top + CELL_PX + 2), label, fill=INK, font=font)
    return sheet


def _choose(slides: pd.DataFrame) -> pd.DataFrame:
    if len(slides) <= MAX_SLIDES:
        return slides
    excluded = slides[slides["status"] == "excluded"].head(MAX_EXCLUDED)
    used = slides[slides["status"] == "used"]
    n_used = min(MAX_SLIDES - len(excluded), len(used))
    evenly = used.iloc[np.arange(n_used) * len(used) // n_used]
    return pd.concat([excluded, evenly]).sort_index()

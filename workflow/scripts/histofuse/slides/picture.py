"""A picture of every slide, to see at a glance what was taken for tissue, what was set aside, and which tiles are used.

Colours are Okabe and Ito's, which colour-blind readers tell apart too (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from histofuse.slides.quality import Survey
from histofuse.slides.tissue import outline

# The longer side of a picture with its legend, at most, and how much a small slide is enlarged, at most.
PICTURE_PX, MAX_ZOOM = 1024, 4.0
OUTLINE_COLOUR = (0, 114, 178)
TILE_COLOUR = (0, 158, 115)
TINTS = {
    "blurred": (240, 228, 66),
    "fold": (86, 180, 233),
    "pen": (213, 94, 0),
    "black": (204, 121, 167),
}
NAMES = {"blurred": "blurred", "fold": "fold", "pen": "ink", "black": "black or missing"}
OPACITY = 0.55
# Frames of tiles smaller than this (pixels of the picture) are drawn half transparent, or they would hide the tissue.
SMALL_TILE_PX = 16
# The legend begins with a line of this colour across the picture.
RULE = (205, 205, 205)
FONT_PX, ROW_PX, SWATCH_PX, GAP_PX = 12, 18, 12, 6


def picture(survey: Survey, corners: np.ndarray, side: float) -> Image.Image:
    """The thumbnail with the rim of the tissue, the frames of tiles, set-aside areas tinted, and a legend beneath.

    `corners` [n, 2] (x, y) and `side` of the tiles are in pixels of the survey's maps. The legend names what occurs.
    """
    height, width = survey.tissue.shape
    shown = {name: getattr(survey, name) for name in TINTS if getattr(survey, name).any()}
    entries = [("tissue", OUTLINE_COLOUR, False), ("tile", TILE_COLOUR, False)]
    entries += [(NAMES[name], TINTS[name], True) for name in shown]
    zoom = min(PICTURE_PX / max(height, width), MAX_ZOOM)
    # A narrower picture may need a taller legend.
    for _ in range(2):
        size = max(1, round(width * zoom)), max(1, round(height * zoom))
        places, legend_px = _lay_out(entries, size[0])
        zoom = min(zoom, (PICTURE_PX - legend_px) / height)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))

    image = np.asarray(Image.fromarray(survey.thumbnail).resize(size)).copy()
    for name, mask in shown.items():
        _blend(image, _resized(mask, size), TINTS[name], OPACITY)
    _blend(image, _frames(corners * zoom, side * zoom, size), TILE_COLOUR, 1.0 if side * zoom >= SMALL_TILE_PX else 0.5)
    image[outline(_resized(survey.tissue, size), thickness=2 if zoom > 1 else 1)] = OUTLINE_COLOUR

    out = Image.new("RGB", (size[0], size[1] + legend_px), "white")
    out.paste(Image.fromarray(image))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(FONT_PX)
    draw.line((0, size[1], size[0], size[1]), fill=RULE)
    for (name, colour, filled), (x, y) in zip(entries, places, strict=True):
        left, top = x, size[1] + y
        box = (left, top, left + SWATCH_PX - 1, top + SWATCH_PX - 1)
        draw.rectangle(box, fill=colour if filled else None, outline=colour, width=2)
        draw.text((left + SWATCH_PX + GAP_PX, top - 2), name, fill="black", font=font)
    return out


def without_legend(image: Image.Image) -> Image.Image:
    """The part of an RGB picture above its legend; the whole picture when it has none."""
    rules = (np.asarray(image) == RULE).all(axis=(1, 2))
    return image.crop((0, 0, image.width, int(np.argmax(rules)))) if rules[1:].any() else image


def _lay_out(entries: list[tuple], width: int) -> tuple[list[tuple[int, int]], int]:
    """Upper left corners of the legend's entries below the picture, row by row, and the legend's height."""
    font = ImageFont.load_default(FONT_PX)
    x, y, places = GAP_PX, GAP_PX, []
    for name, *_ in entries:
        need = SWATCH_PX + GAP_PX + round(font.getlength(name))
        if x > GAP_PX and x + need > width:
            x, y = GAP_PX, y + ROW_PX
        places.append((x, y))
        x += need + 2 * GAP_PX
    return places, y + ROW_PX


def _frames(corners: np.ndarray, side: float, size: tuple[int, int]) -> np.ndarray:
    """Where the frames of tiles run, one pixel wide: bool [height, width]."""
    frames = np.zeros(size[::-1], bool)
    for x, y in corners:
        left, top, right, bottom = (int(v) for v in (x, y, x + side, y + side))
        frames[top : bottom + 1, [left, min(right, size[0] - 1)]] = True
        frames[[top, min(bottom, size[1] - 1)], left : right + 1] = True
    return frames


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return share >= 0.5


def _blend(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    """Colour the masked pixels of an image uint8 RGB, in place."""
    image[mask] = np.rint(image[mask] * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)

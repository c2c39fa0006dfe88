"""Micrometres per pixel: from an override, from what the file states, from its objective."""

from __future__ import annotations

from dataclasses import dataclass

from histofuse.slides.reader_slide import SlideError

# The objective's nominal power times its pixel size: 40x scanners give 0.25 µm/px, 20x ones 0.5.
UM_PER_PX_AT_1X = 10.0
PLAUSIBLE_MPP = (0.05, 10.0)
# Pixels whose sides differ by more would make features of another shape than the models know.
NOT_SQUARE = 0.01
UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}  # inch, cm


@dataclass(frozen=True)
class Stated:
    """A resolution as a file states it: µm per pixel across and down (0: not stated), and where it says so.

    One that is not `firm` is ignored when it is implausible: TIFF tags often hold 72 dots per inch.
    """

    source: str
    x: float
    y: float
    firm: bool = True


def resolution(override: float | None, stated: list[Stated], power: float) -> float:
    """µm per pixel of level 0: the override, else the first of `stated` that says something, else from the objective.

    Raises SlideError when nothing is stated, when what is stated is implausible, or for pixels that are not square.
    """
    if override is not None:
        return _plausible(override, "the override")
    low, high = PLAUSIBLE_MPP
    for one in stated:
        if not one.x or not (one.firm or low <= one.x <= high):
            continue
        mpp = _plausible(one.x, one.source)
        if one.y and abs(one.y / one.x - 1) > NOT_SQUARE:
            raise SlideError(
                f"pixels are not square: {one.source} says {one.x:g} × {one.y:g} micrometres; "
                "use mpp_overrides to take them as square"
            )
        return mpp
    if power:
        return _plausible(UM_PER_PX_AT_1X / power, "the objective's power")
    raise SlideError("no magnification: the file states neither its resolution nor its objective; use mpp_overrides")


def number(text: object) -> float:
    """A property as a number; 0 when it is absent, no number, or 0 (some exports write MPP = 0)."""
    try:
        return float(text or 0)
    except (TypeError, ValueError):
        return 0.0


def _plausible(mpp: float, source: str) -> float:
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise SlideError(f"no magnification: {source} says {mpp:g} micrometres per pixel, outside {low:g} to {high:g}")
    return float(mpp)

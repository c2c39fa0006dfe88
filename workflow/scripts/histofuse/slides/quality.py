"""What a slide holds at a low resolution: tissue, and where it is blurred, inked, folded or missing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histofuse.slides.artefacts import densities, find_folds, find_gaps, find_ink
from histofuse.slides.reader import Slide
from histofuse.slides.tissue import MASK_MPP, disk, tissue_mask

# The thresholds that the configuration may set, with their defaults.
QUALITY = {
    # A tile is dropped when more of it is bad: blurred and folded as shares of its tissue, ink and black of its area.
    "max_blurred": 0.5,
    "max_pen": 0.1,
    "max_fold": 0.5,
    "max_black": 0.1,
    # Amplitude of detail of 2 to 4 µm relative to that of 4 to 8 µm, below which tissue counts as blurred: 0.8 to 1.4
    # in focus, 0.55 at a defocus of σ = 4 µm, 0.5 on a smooth ramp.
    "sharpness": 0.65,
    # Noise at 2 µm/px in grey levels (standard deviation), which is no detail.
    "noise": 0.5,
    # Ratios of optical density beyond which a colour is ink: R/G of blue and green (tissue: below 1), B/G of red
    # (tissue: below 0.8, but for blood), least over largest of black (tissue: below 0.8).
    "ink_blue_green": 1.0,
    "ink_red": 0.8,
    "ink_black": 0.8,
    # Least optical densities (natural logarithm) of ink, of black ink, and of what is darker than tissue.
    "ink_density": 0.3,
    "ink_black_density": 1.0,
    "ink_dense": 1.4,
    # Least width of a stroke, and how far beyond it nothing counts as tissue, in µm.
    "ink_width_um": 40.0,
    "ink_margin_um": 32.0,
    # How many times denser than its surroundings a fold is, and how many times longer than wide.
    "fold_density": 1.6,
    "fold_elongation": 2.5,
    # Largest grey level of a missing part; pure white and grey ones are known by being rectangles.
    "black_level": 12.0,
}
# Resolution at which focus is judged (µm per pixel), and how many rows are looked at together.
FOCUS_MPP = 2.0
BAND_ROWS = 256
# Side of the square over which focus is judged: about a tile of 224 px at 0.5 µm/px.
FOCUS_UM = 104.0


@dataclass(frozen=True)
class Survey:
    """A slide seen from afar; all maps are [height, width] at `mpp` µm per pixel and begin at the slide's origin.

    `thumbnail` uint8 RGB [height, width, 3]; `tissue` bool, free of ink and of missing parts; `pen`, `fold` and `black`
    bool; `sharpness` float32, NaN off tissue and where focus cannot be judged; `sharp` is the sharpness below which
    tissue is blurred.
    """

    thumbnail: np.ndarray
    tissue: np.ndarray
    pen: np.ndarray
    fold: np.ndarray
    black: np.ndarray
    sharpness: np.ndarray
    mpp: float
    sharp: float = QUALITY["sharpness"]

    @property
    def blurred(self) -> np.ndarray:
        """Where tissue is out of focus: bool [height, width]."""
        return self.sharpness < self.sharp


def survey(slide: Slide, thresholds: dict) -> Survey:
    """Look over a slide once.

    The slide is read in bands at 2 µm/px, of which 8 µm/px are kept: memory is 11 bytes per 64 µm². Where the slide
    itself is coarser than 2 µm/px its focus is not judged: `sharpness` is NaN.

    `thresholds` has keys of QUALITY; those it lacks have their defaults. Raises SlideError when the file is damaged.
    """
    thresholds = QUALITY | thresholds
    thumbnail, fine, middle = _look(slide)
    black = np.maximum.reduce(cv2.split(thumbnail)) <= thresholds["black_level"]
    if black.any():
        black = cv2.dilate(black.astype(np.uint8), disk(1)) > 0
    density = densities(thumbnail)
    pen = find_ink(density, MASK_MPP, thresholds) & ~black
    off = (cv2.dilate(pen.astype(np.uint8), disk(thresholds["ink_margin_um"] / MASK_MPP)) > 0) if pen.any() else pen
    off = off | black
    tissue = tissue_mask(thumbnail, MASK_MPP, off)
    if fine is not None:
        gaps = find_gaps(thumbnail, (fine + middle == 0) & ~black, tissue, MASK_MPP)
        black, tissue = black | gaps, tissue & ~gaps
    fold = find_folds(density, tissue, MASK_MPP, thresholds)
    sharpness = _sharpness(fine, middle, tissue, thresholds["noise"])
    return Survey(thumbnail, tissue, pen, fold, black, sharpness, MASK_MPP, thresholds["sharpness"])


def slide_quality(survey: Survey) -> dict[str, float]:
    """Shares of a slide, 0 to 1: `tissue_fraction`, `pen_fraction` and `black_fraction` of its area,
    `blurred_fraction` and `fold_fraction` of its tissue (0 without tissue)."""
    tissue = max(int(survey.tissue.sum()), 1)
    return {
        "tissue_fraction": float(survey.tissue.mean()),
        "blurred_fraction": float((survey.blurred & survey.tissue).sum() / tissue),
        "pen_fraction": float(survey.pen.mean()),
        "fold_fraction": float((survey.fold & survey.tissue).sum() / tissue),
        "black_fraction": float(survey.black.mean()),
    }


def _look(slide: Slide) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The thumbnail at 8 µm/px, and the variance of green at 2 to 4 µm and at 4 to 8 µm within each of its pixels.

    The variances are None where the slide is coarser than 2 µm/px.
    """
    side = int(np.clip(MASK_MPP / slide.mpp * 1.01, 1, MASK_MPP / FOCUS_MPP))
    judged = side == MASK_MPP / FOCUS_MPP
    parts = []
    for band in slide.bands(MASK_MPP / side, BAND_ROWS):
        height, width = -(-band.shape[0] // side), -(-band.shape[1] // side)
        if band.shape[:2] != (height * side, width * side):
            rest = height * side - band.shape[0], width * side - band.shape[1]
            band = cv2.copyMakeBorder(band, 0, rest[0], 0, rest[1], cv2.BORDER_REPLICATE)
        size = width, height
        image = cv2.resize(band, size, interpolation=cv2.INTER_AREA)
        parts.append((image, *_detail(band[..., 1], size)) if judged else (image,))
    joined = [np.concatenate(rows) for rows in zip(*parts, strict=True)]
    return tuple(joined) if judged else (joined[0], None, None)


def _detail(green: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Variance within squares of 2×2 pixels, and between those of a 4×4 square: float32, one per 4×4 square.

    These are the energies of the two finest levels of a Haar wavelet, which know no borders between bands.
    """
    green = np.float32(green)
    pairs = cv2.resize(green, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_AREA)
    mean = cv2.resize(pairs, size, interpolation=cv2.INTER_AREA)
    between = cv2.resize(pairs * pairs, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(green * green, size, interpolation=cv2.INTER_AREA)
    return total - between, between - mean * mean


def _sharpness(fine: np.ndarray | None, middle: np.ndarray | None, tissue: np.ndarray, noise: float) -> np.ndarray:
    """Fine over middle detail of the tissue around each pixel: float32 [height, width], NaN where not judged."""
    out = np.full(tissue.shape, np.nan, np.float32)
    if fine is None or not tissue.any():
        return out
    size = 2 * int(FOCUS_UM / MASK_MPP / 2) + 1
    weight = tissue.astype(np.float32)

    def around(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values * weight, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)

    # White noise of variance 1 has 3/4 within 2×2 pixels and 3/16 between them.
    count = around(np.ones_like(weight))
    fine = np.maximum(around(fine) - 3 / 4 * noise**2 * count, 0)
    middle = np.maximum(around(middle) - 3 / 16 * noise**2 * count, 1e-3)
    out[tissue] = np.sqrt(fine[tissue] / middle[tissue])
    return out

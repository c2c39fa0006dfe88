"""Where the tissue is: a mask from the colourfulness of a thumbnail."""

from __future__ import annotations

import cv2
import numpy as np

# Resolution of the mask: a 112 µm tile spans 14 mask pixels, a whole slide a few megapixels.
MASK_MPP = 8.0
# Otsu always finds two groups, also on a slide that is all glass or all tissue; the threshold stays within
# these.
CHROMA_LIMITS = (12, 30)
CLOSING_UM = 16.0
MIN_AREA_UM2 = 25_000.0


def tissue_mask(image: np.ndarray, mpp: float, without: np.ndarray | None = None) -> np.ndarray:
    """True where there is tissue.

    Chroma (largest minus smallest of R, G and B) is high in haematoxylin and eosin alike and low on glass, in
    shadows and under black ink, where HSV's saturation is noisy. It is smoothed, cut at Otsu's threshold
    (within fixed limits), gaps below 32 µm are closed, and pieces and holes smaller than about two 112 µm
    tiles are removed.

    Parameters: `image` uint8 [height, width, 3]; `mpp` its µm per pixel; `without` bool [height, width], what is no
    tissue whatever its colour (ink), and has no part in the threshold. Returns bool [height, width].
    """
    chroma = np.maximum.reduce([*cv2.split(image)]) - np.minimum.reduce([*cv2.split(image)])
    if without is not None:
        chroma[without] = 0
    chroma = cv2.blur(chroma.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)
    threshold = np.clip(otsu_threshold(chroma if without is None else chroma[~without]), *CHROMA_LIMITS)
    # OpenCV's rim neither adds to a dilation nor takes from an erosion, so tissue may run off the image.
    mask = cv2.morphologyEx((chroma > threshold).astype(np.uint8), cv2.MORPH_CLOSE, disk(CLOSING_UM / mpp)) > 0

    smallest = MIN_AREA_UM2 / mpp**2
    mask = ~without_small(~without_small(mask, smallest), smallest)
    return mask if without is None else mask & ~without


def otsu_threshold(values: np.ndarray) -> float:
    """The cut of values in 0 to 255 that maximises the variance between the two sides.

    Source: Otsu, IEEE Trans. Syst. Man Cybern. 9, 62 (1979), on a histogram of 256 bins.
    """
    counts = np.bincount(np.clip(values, 0, 255).astype(np.uint8).ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256)
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sum_below / below - (sum_below[-1] - sum_below) / above
        between = np.where((below > 0) & (above > 0), below * above * gap**2, 0.0)
    return float(np.argmax(between))


def outline(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """The inner rim of a mask, `thickness` pixels wide, as a mask."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # The image's own border counts as outside: tissue that runs off it has a rim there too.
    inner = cv2.erode(mask.astype(np.uint8), cross, iterations=thickness, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def disk(radius: float) -> np.ndarray:
    """A round structuring element, uint8; the radius in pixels is rounded and at least 1."""
    radius = max(1, round(radius))
    span = np.arange(-radius, radius + 1)
    return (span[:, None] ** 2 + span[None, :] ** 2 <= radius**2).astype(np.uint8)


def without_small(mask: np.ndarray, smallest: float) -> np.ndarray:
    """Drop pieces (connected by edges) of fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    return keep[labels]

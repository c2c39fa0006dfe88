"""Where the tissue is: a mask from the colourfulness of a thumbnail."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Resolution of the mask: a 112 µm tile spans 14 mask pixels, a whole slide a few megapixels.
MASK_MPP = 8.0
# Otsu always finds two groups, also on a slide that is all glass or all tissue; the threshold stays within
# these.
CHROMA_LIMITS = (12, 30)
CLOSING_UM = 16.0
MIN_AREA_UM2 = 25_000.0


def tissue_mask(image: np.ndarray, mpp: float) -> np.ndarray:
    """True where there is tissue.

    Chroma (largest minus smallest of R, G and B) is high in haematoxylin and eosin alike and low on glass, in
    shadows and under black ink, where HSV's saturation is noisy. It is smoothed, cut at Otsu's threshold
    (within fixed limits), gaps below 32 µm are closed, and pieces and holes smaller than about two 112 µm
    tiles are removed.

    Parameters: `image` uint8 [height, width, 3]; `mpp` its µm per pixel. Returns bool [height, width].
    """
    chroma = image.max(axis=2).astype(np.float32) - image.min(axis=2)
    chroma = ndimage.uniform_filter(chroma, size=3, mode="nearest")
    threshold = np.clip(otsu_threshold(chroma), *CHROMA_LIMITS)
    mask = chroma > threshold

    radius = max(1, round(CLOSING_UM / mpp))
    span = np.arange(-radius, radius + 1)
    disk = span[:, None] ** 2 + span[None, :] ** 2 <= radius**2
    mask = ndimage.binary_dilation(mask, disk)
    # Erosion must not eat tissue that runs off the image.
    mask = ndimage.binary_erosion(mask, disk, border_value=1)

    smallest = MIN_AREA_UM2 / mpp**2
    mask = _without_small(mask, smallest)
    return ~_without_small(~mask, smallest)


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
    return mask & ~ndimage.binary_erosion(mask, iterations=thickness)


def _without_small(mask: np.ndarray, smallest: float) -> np.ndarray:
    """Drop connected pieces of fewer than `smallest` pixels."""
    labels, n_pieces = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=n_pieces + 1)
    keep = sizes >= smallest
    keep[0] = False
    return keep[labels]

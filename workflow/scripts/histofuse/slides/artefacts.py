"""Ink, folds and missing parts of a slide, told from tissue by their colour, density and shape on a thumbnail.

Haematoxylin and eosin both absorb green most. In optical density relative to glass, and over 8 µm, tissue therefore
has R/G < 1 and, where it is red, B/G < 0.75; ink is what lies beyond that. Erythrocytes lie beyond it too, and are
known by absorbing more red than ink does, and less green.
"""

from __future__ import annotations

import cv2
import numpy as np

from histofuse.slides.tissue import disk, without_small

# Glass is at least this bright and at most this coloured (grey levels); without any, white is taken to be this.
GLASS_LEVEL, GLASS_CHROMA, WHITE = 220, 20, 245
GLASS_SHARE = 0.001
# Red ink hardly absorbs red, and blue and green ink absorb less blue than red: at most these shares.
RED_INK, COLD_INK = 0.4, 0.45
# Erythrocytes are like it, with 0.2 of a green density of about 1.6: red ink is unmistakable below this share, or
# above this density. What is not stays tissue unless it lies beside a stroke that is.
BLOOD_RED, BLOOD_GREEN = 0.15, 2.2
# Where ink lies over tissue its ratios of density shrink. They may shrink to DENSE where the density is beyond that of
# tissue, and to BESIDE within so many µm of unmistakable ink, where the colour is one that the rest of the slide lacks.
DENSE, BESIDE, BESIDE_UM = 0.875, 0.85, 500.0
# That colour is B/R below this share of the rest's first percentile, and below this in any case.
COLDER, COLDEST = 0.9, 0.7
# Densities of folds are compared over this, so that nuclei do not count; with the tissue of this neighbourhood.
FOLD_SMOOTHING_UM, FOLD_NEIGHBOURHOOD_UM = 40.0, 1000.0
# Typical of a slide is this quantile, because tissue with gaps looks thin. Both stains absorb green and blue about
# alike, which makes these the measure of thickness all over a slide; red, which depends on how many nuclei there are,
# is compared within the neighbourhood only, and may rise by a quarter less.
TYPICAL = 0.75
SLIDE_WIDE, LEEWAY = np.float32([0, 1, 1]), np.float32([1.25, 1, 1])
# A fold reaches out to where its density has risen by this share of the limit's.
FOLD_EDGE = 0.6
# Scan gaps are rectangles: this share of their bounding box, at least this wide, with this share of tissue around.
GAP_FILL, GAP_WIDTH_UM, GAP_TISSUE = 0.95, 32.0, 0.5
# What connected pieces must cover, in µm².
INK_AREA_UM2, FOLD_AREA_UM2 = 20_000.0, 8_000.0
# A quantile is taken of about so many pixels.
QUANTILE_PIXELS = 100_000


def densities(image: np.ndarray) -> np.ndarray:
    """Optical density (natural logarithm) relative to glass, at least 0: float32 [height, width, 3] of uint8 RGB."""
    channels = cv2.split(image)
    low, high = np.minimum.reduce(channels), np.maximum.reduce(channels)
    glass = image[(low >= GLASS_LEVEL) & (high - low <= GLASS_CHROMA)]
    white = np.median(glass, axis=0) if len(glass) > GLASS_SHARE * low.size else np.full(3, WHITE)
    levels = np.maximum(np.arange(256, dtype=np.float32), 1)[:, None]
    table = np.maximum(np.log(white.astype(np.float32) / levels), 0).astype(np.float32)
    return cv2.LUT(image, table[:, None, :])


def find_ink(density: np.ndarray, mpp: float, thresholds: dict) -> np.ndarray:
    """Pen marks: blue, green, red and black ink in strokes at least as thick as a nib.

    Parameters: `density` as `densities` gives it, at `mpp` µm per pixel; `thresholds` as `quality.QUALITY`. Returns
    bool [height, width].
    """
    red, green, blue = cv2.split(cv2.blur(density, (3, 3)))
    darkest, palest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    dense = thresholds["ink_dense"]
    red_ink = np.where(green > dense, DENSE, 1) * thresholds["ink_red"]
    cold_ink = np.where((red > dense) & (blue < COLD_INK * red), DENSE, 1) * thresholds["ink_blue_green"]

    def coloured(part: float) -> np.ndarray:
        cold = red > part * cold_ink * green
        warm = (blue > part * red_ink * green) & (red < RED_INK * green)
        if part == 1.0:
            warm &= (red < BLOOD_RED * green) | (green > BLOOD_GREEN)
        grey = (palest > part * thresholds["ink_black"] * darkest) & (palest > thresholds["ink_black_density"])
        return (cold | warm | grey) & (darkest > thresholds["ink_density"])

    ink = coloured(1.0)
    nib = disk(thresholds["ink_width_um"] / 2 / mpp)
    strokes = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, nib)
    strokes = without_small(strokes > 0, INK_AREA_UM2 / mpp**2)
    if not strokes.any():
        return strokes
    strokes |= ink & (cv2.dilate(strokes.astype(np.uint8), nib) > 0)
    near = cv2.distanceTransform((~strokes).astype(np.uint8), cv2.DIST_L2, 3) <= BESIDE_UM / mpp
    rest = (darkest > thresholds["ink_density"]) & ~near
    colder = COLDER * np.quantile(blue[rest] / np.maximum(red[rest], 1e-3), 0.01) if rest.any() else COLD_INK
    unlike = (darkest > dense) | (blue < min(colder, COLDEST) * red)
    return _grown(strokes, coloured(BESIDE) & unlike & near)


def find_folds(density: np.ndarray, tissue: np.ndarray, mpp: float, thresholds: dict) -> np.ndarray:
    """Folds: elongated pieces of tissue that are denser than their surroundings in R, G and B alike.

    Where tissue lies double both stains double; dense nuclei raise mostly red, and blood hardly raises red. Density
    is compared with the mean of the tissue within a millimetre, and with what is typical of the slide.

    Parameters: `density` as `densities` gives it, `tissue` bool, both [height, width] at `mpp` µm per pixel;
    `thresholds` as `quality.QUALITY`. Returns bool [height, width].
    """
    # At half the resolution, which is finer than what is compared.
    small = -(-tissue.shape[1] // 2), -(-tissue.shape[0] // 2)
    everything, mpp = tissue, 2 * mpp
    tissue = cv2.resize(tissue.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0
    density = cv2.resize(density, small, interpolation=cv2.INTER_AREA)
    size = _odd(FOLD_SMOOTHING_UM / mpp)
    smooth = _local_mean(density, tissue, size)
    plain = tissue
    # Twice, because folds raise the density of their surroundings at first.
    for _ in range(2):
        if not plain.any():
            return np.zeros_like(everything)
        typical = np.quantile(smooth[plain][:: int(plain.sum()) // QUANTILE_PIXELS + 1], TYPICAL, axis=0)
        around = _local_mean(smooth, plain, _odd(FOLD_NEIGHBOURHOOD_UM / mpp))
        around = np.maximum(np.maximum(around, typical.astype(np.float32) * SLIDE_WIDE), 1e-3)
        ratio = np.minimum.reduce(cv2.split(smooth / around * LEEWAY))
        folds = tissue & (ratio > thresholds["fold_density"])
        plain = tissue & ~folds
    edge = 1 + FOLD_EDGE * (thresholds["fold_density"] - 1)
    folds = _grown(folds, tissue & (ratio > edge)).astype(np.uint8)
    folds = cv2.morphologyEx(folds, cv2.MORPH_CLOSE, disk(size / 2))
    folds = _elongated(folds, FOLD_AREA_UM2 / mpp**2, thresholds["fold_elongation"])
    large = folds.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    return everything & (large[: everything.shape[0], : everything.shape[1]] > 0)


def find_gaps(image: np.ndarray, flat: np.ndarray, tissue: np.ndarray, mpp: float) -> np.ndarray:
    """Rectangles of one colour inside tissue: parts that the scanner left out.

    Parameters: `image` uint8 [height, width, 3]; `flat` bool [height, width], where the slide does not vary at all
    within a pixel; `tissue` bool [height, width]; `mpp` µm per pixel. Returns bool [height, width].
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    width, height, area = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT], stats[:, cv2.CC_STAT_AREA]
    rectangular = (np.minimum(width, height) >= GAP_WIDTH_UM / mpp) & (area >= GAP_FILL * width * height)
    rectangular[0] = False
    gaps = np.zeros_like(flat)
    for piece in np.nonzero(rectangular)[0]:
        left, top, right, bottom = *stats[piece, :2], *(stats[piece, :2] + stats[piece, 2:4])
        box = np.s_[top:bottom, left:right]
        inside = labels[box] == piece
        one_colour = np.ptp(image[box][inside], axis=0).max() <= 2
        if one_colour and _share_around(tissue, left, top, right, bottom) >= GAP_TISSUE:
            gaps[box] |= inside
    return cv2.dilate(gaps.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _share_around(mask: np.ndarray, left: int, top: int, right: int, bottom: int) -> float:
    """Share of a mask in a frame around a box, two pixels wide, past the pixels that lie half in the box.

    What of the frame lies off the image counts as not masked: glass at the slide's border is no gap.
    """
    outer = mask[max(top - 3, 0) : bottom + 3, max(left - 3, 0) : right + 3].sum()
    inner = mask[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1].sum()
    width, height = right - left, bottom - top
    return float((outer - inner) / ((width + 6) * (height + 6) - (width + 2) * (height + 2)))


def _grown(seeds: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The seeds and the pieces of `reach` that touch them."""
    reach = reach | seeds
    n_pieces, labels = cv2.connectedComponents(reach.astype(np.uint8), connectivity=8)
    keep = np.zeros(n_pieces, bool)
    keep[labels[seeds]] = True
    keep[0] = False
    return keep[labels]


def _local_mean(values: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    """Mean over the pixels of the mask within a square of `size` pixels, for every channel; 0 where there are none."""
    weight = mask.astype(np.float32)
    total = cv2.blur(weight, (size, size), borderType=cv2.BORDER_CONSTANT)
    mean = cv2.blur(values * weight[..., None], (size, size), borderType=cv2.BORDER_CONSTANT)
    return mean / np.maximum(total, 0.5 / size**2)[..., None]


def _elongated(mask: np.ndarray, smallest: float, elongation: float) -> np.ndarray:
    """Pieces of at least `smallest` pixels whose area is at least `elongation` times their mean width squared."""
    n_pieces, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    area = stats[:, cv2.CC_STAT_AREA]
    keep = np.zeros(n_pieces, bool)
    for piece in 1 + np.nonzero(area[1:] >= smallest)[0]:
        left, top, width, height, _ = stats[piece]
        box = np.s_[top : top + height, left : left + width]
        # A strip's pixels lie a quarter of its width from its border on average, counted from their centres.
        across = 4 * (depth[box][labels[box] == piece].mean() - 0.5)
        keep[piece] = area[piece] >= elongation * across**2
    return keep[labels]


def _odd(size: float) -> int:
    return 2 * int(size / 2) + 1

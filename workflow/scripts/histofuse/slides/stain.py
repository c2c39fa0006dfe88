"""Stain normalisation: a slide's stains, estimated once from pixels of its tissue, and a map to a target's stains.

The optical density of a pixel is -ln(RGB / 255). Vahadane and Macenko write it as concentrations times a matrix of
two stains; a slide is normalised by scaling its concentrations to the target's 99th percentiles and giving them the
target's colours. Reinhard shifts and scales L*a*b* to the target's mean and deviation.

Sources: Vahadane et al., IEEE Trans. Med. Imaging 35, 1962 (2016); Macenko et al., ISBI 2009, 1107; Reinhard et al.,
IEEE Comput. Graph. Appl. 21(5), 34 (2001). The constants are those of staintools 2.1.2.

The targets named `default` are in stain.tsv: numbers that `estimate` gives for all tissue pixels of tiatoolbox's
target_image.png (TissueImageAnalytics/tiatoolbox at 6fc8a2ec, BSD-3-Clause).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from histofuse.io import InputError, read_table

METHODS = ("vahadane", "macenko", "reinhard")
STAINS = ("haematoxylin", "eosin")
# A pixel with a lightness L* below the first is tissue, one above the second glass.
TISSUE_LIGHTNESS, GLASS_LIGHTNESS = 80.0, 95.0
# The lasso's weight when stains are learnt, and when concentrations are found for given stains.
LEARNING_PENALTY, PENALTY = 0.1, 0.01
ANGULAR_PERCENTILE = 99.0
# Stains are learnt for CHECK_EVERY iterations at a time until they move by less than CONVERGED_DEGREES meanwhile.
CHECK_EVERY, MOST_CHECKS, CONVERGED_DEGREES = 25, 80, 0.01
# Passes over both stains of one iteration.
PASSES = 10
# Ruifrok and Johnston's colours of haematoxylin and eosin, where learning starts.
START = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
# Fewer pixels, stains closer than 7.6 degrees (the matrix's condition number), or a stain fainter than this at its
# 99th percentile say nothing about the slide's stains.
FEWEST_PIXELS, LARGEST_CONDITION, FAINTEST = 1000, 15.0, 0.1
LARGEST_TARGET_PX = 100_000_000
# The optical density of each of the 256 values; 0 counts as 1.
DENSITY = np.maximum(-np.log(np.maximum(np.arange(256), 1) / 255), 1e-6)
# Linear light of sRGB's 256 values, its primaries in XYZ, and the white of D65.
LINEAR = np.where(np.arange(256) <= 10, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4)
XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = XYZ_OF_RGB.sum(axis=1)
# Set in the table's entries of colours that are computed.
FILLED = np.uint32(0xFF000000)
# Pixels mapped at once: they stay in the processor's cache.
BLOCK_PIXELS = 1 << 16


class StainError(ValueError):
    """These pixels do not tell the stains. The message is the reason that is recorded."""


@dataclass(frozen=True)
class Stains:
    """What one method needs to know of a slide or a target.

    Attributes
    ----------
    method : one of METHODS.
    matrix : float64 [2, 3]. Optical densities (R, G, B; unit length) of haematoxylin and eosin; for reinhard the
        mean and the deviation of L*, a*, b*.
    p99 : float64 [2], the 99th percentile of both stains' concentrations; NaN for reinhard.
    pixels : how many pixels were looked at.
    moved_degrees : how far the stains moved between the last two checks; NaN for methods without iterations.
    """

    method: str
    matrix: np.ndarray
    p99: np.ndarray
    pixels: int
    moved_degrees: float = float("nan")


def is_tissue(pixels: np.ndarray) -> np.ndarray:
    """Whether pixels uint8 [..., 3] are darker than glass (L* below 80): bool [...]."""
    luminance = sum(weight * LINEAR[pixels[..., i]] for i, weight in enumerate(XYZ_OF_RGB[1]))
    return luminance < ((TISSUE_LIGHTNESS + 16) / 116) ** 3


def sample_pixels(tiles: list[np.ndarray], n: int, seed: int) -> np.ndarray:
    """At most `n` pixels uint8 [≤ n, 3] of arrays uint8 [m, 3], drawn without repetition.

    The same pixels come from the same seed; the caller decides the order of the arrays.
    """
    pixels = np.concatenate([np.empty((0, 3), np.uint8), *tiles])
    if len(pixels) <= n:
        return pixels
    return pixels[np.random.default_rng(seed).choice(len(pixels), n, replace=False)]


def estimate(pixels: np.ndarray, method: str) -> Stains:
    """The stains of tissue pixels uint8 [n, 3] by one of METHODS; raises StainError when they do not tell them."""
    if len(pixels) < FEWEST_PIXELS:
        raise StainError(f"only {len(pixels)} pixels of tissue, {FEWEST_PIXELS} are needed")
    if method == "reinhard":
        lab = _lab(pixels)
        matrix = np.stack([lab.mean(axis=1), lab.std(axis=1)])
        if matrix[1].min() < FAINTEST:
            raise StainError("all pixels of tissue have the same colour")
        return Stains(method, matrix, np.full(2, np.nan), len(pixels))
    density = np.ascontiguousarray(DENSITY[pixels].T)
    matrix, moved = _learn(density) if method == "vahadane" else (_extremes(density), float("nan"))
    p99 = _check(matrix, density)
    return Stains(method, matrix, p99, len(pixels), moved)


def estimate_or_fall_back(pixels: np.ndarray, method: str, fallback: str) -> tuple[Stains | None, str]:
    """The stains by `method`, or else by `fallback` ("none" or another method), and why the first did not do.

    Returns None for the stains when no method did, and "" for the reason when the first one did.
    """
    reasons = []
    for name in dict.fromkeys((method, fallback)):
        if name == "none":
            break
        try:
            return estimate(pixels, name), "; ".join(reasons)
        except StainError as error:
            reasons.append(f"{name}: {error}")
    return None, "; ".join(reasons)


@functools.cache
def load_target(target: str, method: str) -> Stains:
    """The stains to normalise to: those of stain.tsv for "default", else of the image file `target`.

    An image's transparent parts count as glass. Raises InputError when it cannot be read or its stains not told.
    """
    if target == "default":
        table = read_table(Path(__file__).with_suffix(".tsv"))
        rows = table[table["method"] == method]
        return Stains(
            method, rows[["x1", "x2", "x3"]].to_numpy(float), rows["p99"].to_numpy(float), rows["pixels"].iloc[0]
        )
    pixels = _read_image(target).reshape(-1, 3)
    try:
        return estimate(pixels[is_tissue(pixels)], method)
    except StainError as error:
        raise InputError(
            f"stain target {target}: {method} cannot tell its stains ({error}); choose another image"
        ) from error


class StainMap:
    """The map of a slide's colours to a target's: call it with tiles uint8 [..., 3], get the same shape.

    The map is a function of a pixel's colour alone, so every colour is computed once, when it first occurs, and
    kept in a table (64 MB at most, used only where colours occur).
    """

    def __init__(self, source: Stains, target: Stains):
        if source.method != target.method:
            raise ValueError(f"stains by {source.method} cannot be mapped to stains by {target.method}")
        self._source, self._target = source, target
        self._table = np.zeros(1 << 24, "<u4")

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        pixels = tiles.reshape(-1, 3)
        result = np.empty_like(pixels)
        for first in range(0, len(pixels), BLOCK_PIXELS):
            block = slice(first, first + BLOCK_PIXELS)
            self._map(pixels[block], result[block])
        return result.reshape(tiles.shape)

    def _map(self, pixels: np.ndarray, result: np.ndarray) -> None:
        colours = np.zeros((len(pixels), 4), np.uint8)
        for channel in range(3):
            colours[:, channel] = pixels[:, channel]
        colours = colours.view("<u4")[:, 0]
        # Every index is in the table; "wrap" only spares the check.
        mapped = np.take(self._table, colours, mode="wrap")
        if mapped.min() == 0:
            self._fill(np.unique(colours[mapped == 0]))
            mapped = np.take(self._table, colours, mode="wrap")
        mapped = mapped.view(np.uint8).reshape(-1, 4)
        for channel in range(3):
            result[:, channel] = mapped[:, channel]

    def _fill(self, colours: np.ndarray) -> None:
        entries = colours.view(np.uint8).reshape(-1, 4).copy()
        entries[:, :3] = self._of(entries[:, :3])
        self._table[colours] = entries.view("<u4").ravel() | FILLED

    def _of(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 [n, 3] mapped."""
        source, target = self._source, self._target
        if source.method == "reinhard":
            (mean, deviation), (wanted_mean, wanted_deviation) = source.matrix[..., None], target.matrix[..., None]
            lab = _lab(pixels)
            # The map is tissue's; it fades out towards glass, which it would colour.
            share = np.clip((GLASS_LIGHTNESS - lab[0]) / (GLASS_LIGHTNESS - TISSUE_LIGHTNESS), 0, 1)
            return _rgb(lab + share * ((lab - mean) / deviation * wanted_deviation + wanted_mean - lab))
        density = DENSITY[np.ascontiguousarray(pixels.T)]
        amounts = concentrations(density, source.matrix, PENALTY) * (target.p99 / source.p99)[:, None]
        density = target.matrix[0][:, None] * amounts[0] + target.matrix[1][:, None] * amounts[1]
        return np.rint(255 * np.exp(-density)).astype(np.uint8).T


def concentrations(density: np.ndarray, matrix: np.ndarray, penalty: float) -> np.ndarray:
    """Concentrations ≥ 0 [2, n] of two stains: the minimum of ½‖density - matrixᵀc‖² + penalty · Σc, exactly.

    Parameters: `density` [3, n]; `matrix` [2, 3] with rows of unit length that are not parallel. With two stains
    the minimum is inside, or on the axis of the stain whose inside solution is not negative.
    """
    first, second = ((row[:, None] * density).sum(axis=0) - penalty for row in matrix)
    cosine = (matrix[0] * matrix[1]).sum()
    scale = 1 / (1 - cosine**2)
    inside = (first - cosine * second) * scale, (second - cosine * first) * scale
    return np.stack(
        [
            np.maximum(np.where(inside[1] < 0, first, inside[0]), 0),
            np.maximum(np.where(inside[0] < 0, second, inside[1]), 0),
        ]
    )


def degrees(first: np.ndarray, second: np.ndarray) -> float:
    """The larger of the angles between the rows of two matrices with rows of unit length."""
    return float(np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(first - second, axis=1) / 2, 0, 1))).max())


def _learn(density: np.ndarray) -> tuple[np.ndarray, float]:
    """Stains [2, 3] of densities [3, n] by sparse dictionary learning, and the degrees that the last check moved.

    The concentrations of all pixels and the stains are improved in turn. Sums are einsum's, which, unlike BLAS,
    adds in the same order whatever the number of threads.
    """
    matrix = START / np.linalg.norm(START, axis=1, keepdims=True)
    moved = np.inf
    for _ in range(MOST_CHECKS):
        before = matrix
        for _ in range(CHECK_EVERY):
            matrix = _improve(matrix, density)
        moved = degrees(before, matrix)
        if moved < CONVERGED_DEGREES:
            return matrix[np.argsort(-matrix[:, 0], kind="stable")], moved
    raise StainError(f"not converged: still moving by {moved:.2g} degrees after {CHECK_EVERY * MOST_CHECKS} iterations")


def _improve(matrix: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The stains [2, 3] after one iteration: ≥ 0, of unit length."""
    amounts = concentrations(density, matrix, LEARNING_PENALTY)
    gram, cross = np.einsum("in,jn->ij", amounts, amounts), np.einsum("in,cn->ic", amounts, density)
    matrix = matrix.copy()
    for _ in range(PASSES):
        for stain in range(2):
            if gram[stain, stain] <= 0:
                raise StainError("one stain only")
            step = (cross[stain] - (gram[stain][:, None] * matrix).sum(axis=0)) / gram[stain, stain]
            row = np.maximum(matrix[stain] + step, 0)
            if not row.any():
                raise StainError("one stain only")
            matrix[stain] = row / np.linalg.norm(row)
    if degrees(matrix[:1], matrix[1:]) < 0.1:
        raise StainError("one stain only")
    return matrix


def _extremes(density: np.ndarray) -> np.ndarray:
    """Stains [2, 3] of densities [3, n] by Macenko: extreme angles in the plane of the two main directions."""
    centred = density - density.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("in,jn->ij", centred, centred) / (density.shape[1] - 1))
    plane = vectors[:, [2, 1]] * np.where(vectors[0, [2, 1]] < 0, -1, 1)
    x, y = np.einsum("ck,cn->kn", plane, density)
    angles = np.radians(np.percentile(np.degrees(np.arctan2(y, x)), [100 - ANGULAR_PERCENTILE, ANGULAR_PERCENTILE]))
    # Noise can push a stain that leaves a colour alone below zero, which no density is.
    matrix = np.maximum(np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T, 0)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if lengths.min() == 0:
        raise StainError("the extreme colours are no stains")
    matrix = matrix / lengths
    return matrix[np.argsort(-matrix[:, 0], kind="stable")]


def _check(matrix: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The 99th percentiles [2] of the concentrations; raises StainError unless these are two stains, H and E."""
    condition = np.linalg.cond(matrix)
    if not condition <= LARGEST_CONDITION:
        raise StainError(
            f"one stain only: the matrix has condition number {condition:.3g}, above {LARGEST_CONDITION:g}"
        )
    # Haematoxylin lets blue pass, eosin stops green; ink of pens does not have both.
    if matrix[0].argmin() != 2 or matrix[1].argmax() != 1:
        text = " and ".join("(" + ", ".join(f"{v:.2f}" for v in row) + ")" for row in matrix)
        raise StainError(f"not haematoxylin and eosin: optical densities {text}")
    p99 = np.percentile(concentrations(density, matrix, PENALTY), 99, axis=1)
    if p99.min() < FAINTEST:
        raise StainError(f"almost no {STAINS[p99.argmin()]}: 99th percentile {p99.min():.3g}, below {FAINTEST:g}")
    return p99


def _read_image(path: str) -> np.ndarray:
    """An image file as uint8 [height, width, 3]; raises InputError."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA", "P"):
                raise InputError(f"stain target {path}: is {image.mode}, not 8-bit RGB; convert the image")
            if image.width * image.height > LARGEST_TARGET_PX:
                raise InputError(f"stain target {path}: is larger than 100 megapixels; cut a region out of it")
            image = image.convert("RGBA")
    except FileNotFoundError as error:
        raise InputError(f"stain target {path}: there is no such file; give an image or `default`") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"stain target {path}: cannot be read as an image ({error})") from error
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def _lab(pixels: np.ndarray) -> np.ndarray:
    """CIE L*, a*, b* (D65) [3, n] of sRGB pixels uint8 [n, 3]."""
    linear = LINEAR[pixels].T
    x, y, z = (_root((row[:, None] * linear).sum(axis=0) / white) for row, white in zip(XYZ_OF_RGB, WHITE, strict=True))
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _root(share: np.ndarray) -> np.ndarray:
    return np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)


def _rgb(lab: np.ndarray) -> np.ndarray:
    """sRGB uint8 [n, 3] of L*, a*, b* [3, n]; colours that a screen cannot show are clipped."""
    y = (lab[0] + 16) / 116
    roots = np.stack([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * WHITE[:, None]
    linear = np.clip(
        sum(column[:, None] * row for column, row in zip(np.linalg.inv(XYZ_OF_RGB).T, xyz, strict=True)), 0, 1
    )
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * value).astype(np.uint8).T

"""H&E images: stain concentrations first, then Beer-Lambert with stain vectors that vary from slide to slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histofuse.sources.simulated.cohort import Case
from histofuse.sources.simulated.texture import N_STAMPS, NUCLEUS, enlarge, noise, nuclei, smooth_field

MPP = 0.4990  # µm per pixel at full resolution
# What a factor does to a slide; `view` is the factor as slides show it, sigmoid-shaped where it is a share of tissue.
TUMOUR_NUCLEI = 1700.0  # per mm² at view 0
TUMOUR_NUCLEI_EFFECT = 0.5  # change of the log density by one unit of the tumour view
LYMPHOCYTES = 6000.0  # per mm² of infiltrated tissue
INFILTRATED = (0.02, 0.42, 1.5, 0.0)  # share of tissue: base, rise, slope, middle of the sigmoid
NECROTIC = (0.0, 0.34, 1.5, 0.7)
# One sign at either magnification. Averaging over 1 µm removes most grain of chromatin and matrix (the tumour's),
# and a tile of 112 µm hardly holds one of the nests that tumour cells form between strands (the microenvironment's).
GRAIN = (0.0, 0.7, 1.5, 0.0)  # standard deviation of a nucleus's haematoxylin, as a share of its mean
MATRIX_GRAIN = (0.03, 0.07)  # sd of the eosin: without grain, and more of it per unit
NESTING = (0.0, 1.6, 1.5, 0.0)  # of log density, from strand to nest
NEST_PITCH = (75.0, 90.0)  # µm from nest to nest
STRAND_EOSIN = 0.4  # of strands against nests, per unit of nesting
# Haematoxylin and eosin in optical density (R, G, B) per unit of concentration.
STAINS = np.array([[0.60, 0.68, 0.38], [0.16, 0.74, 0.42]], np.float32)
STAIN_JITTER = 0.035  # sd per entry
STRENGTH_JITTER = 0.12  # sd of the log of a stain's concentration
GRID = 16  # pixels per cell of the coarse maps
STRIP = 32  # rows at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Look:
    """What the pathologist would see: densities per mm² and shares of tissue area."""

    nuclei: float
    pleomorphism: float
    grain: float
    infiltrated: float
    necrotic: float
    nesting: float
    codel: bool


def look_of(case: Case) -> Look:
    tumour, microenvironment = (float(np.clip(case.seen["slides"][f], -3, 3)) for f in ("tumour", "microenvironment"))
    return Look(
        nuclei=TUMOUR_NUCLEI * float(np.exp(TUMOUR_NUCLEI_EFFECT * tumour)),
        pleomorphism=float(1 / (1 + np.exp(-tumour))),
        grain=_share(GRAIN, tumour),
        infiltrated=_share(INFILTRATED, microenvironment),
        necrotic=_share(NECROTIC, microenvironment),
        nesting=_share(NESTING, microenvironment),
        codel=case.codel,
    )


def _share(curve: tuple[float, float, float, float], view: float) -> float:
    base, rise, slope, middle = curve
    return float(base + rise / (1 + np.exp(-slope * (view - middle))))


def render(look: Look, width: int, rng: np.random.Generator) -> np.ndarray:
    """An H&E slide as uint8 RGB [height, width, 3]; the height is 0.70 to 0.80 of the width."""
    shape = (int(width * rng.uniform(0.70, 0.80)), width)
    coarse = (-(-shape[0] // GRID), -(-shape[1] // GRID))
    outline = _outline(coarse, rng)
    tissue = outline > 0
    necrosis = _patches(tissue, look.necrotic, 7, rng)
    infiltrate = _patches(tissue & (necrosis < 0), look.infiltrated, 12, rng)
    nests = _nests(coarse, rng)

    patch = noise("patch", shape, rng)
    alive = np.clip(0.5 - enlarge(necrosis, shape) * 6 + 0.25 * patch, 0, 1)
    eosin = 0.05 * patch + enlarge(0.47 + STRAND_EOSIN * look.nesting * _strands(nests), shape)
    for name, amplitude in (
        ("fibril", 0.05),
        ("broad", 0.05),
        ("grain", MATRIX_GRAIN[0] + MATRIX_GRAIN[1] * look.grain),
    ):
        eosin += noise(name, shape, rng, amplitude)
    eosin *= noise("vacuole", shape, rng)
    eosin *= 0.6 + 0.4 * alive
    blue = 0.05 + 0.015 * patch + 0.03 * (1 - alive)

    area = MPP**2 * 1e-6 * GRID**2
    density = np.exp(0.35 * smooth_field(coarse, 14, rng) + look.nesting * nests)
    living = tissue & (necrosis < 0)
    tumour_cells = np.where(living, density, 0.04 * tissue)
    tumour_cells *= look.nuclei * area / max(float(tumour_cells[living].mean()) if living.any() else 1.0, 1e-6)
    kind = "oligodendroglial" if look.codel else "tumour"
    _stamp(blue, eosin, kind, tumour_cells, look.pleomorphism, look.grain, rng)
    _stamp(blue, eosin, "lymphocyte", np.where(infiltrate > 0, LYMPHOCYTES, 60.0 * living) * area, 0.5, 0.0, rng)

    edge = np.clip((enlarge(outline, shape) + 0.006 * patch) * 40, 0, 1)
    return _beer_lambert(blue * edge, np.maximum(eosin, 0.02) * edge, rng)


def blank(width: int, rng: np.random.Generator) -> np.ndarray:
    """A slide without tissue: glass and a little dust."""
    shape = (int(width * 0.75), width)
    dust = np.maximum(noise("grain", shape, rng) - 3.6, 0)
    return _beer_lambert(0.1 * dust, np.zeros(shape, np.float32), rng)


def _outline(coarse: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Positive inside one or two irregular pieces of tissue, with a slope of about 1 per slide width."""
    y, x = np.mgrid[: coarse[0], : coarse[1]]
    y, x = y / coarse[0] - 0.5, x / coarse[1] - 0.5
    field = np.full(coarse, -1.0, np.float32)
    two = rng.random() < 0.4
    for centre in (-0.25, 0.25) if two else (0.0,):
        a, b = rng.uniform(0.17, 0.21) if two else rng.uniform(0.36, 0.42), rng.uniform(0.33, 0.41)
        cx, cy = centre + rng.uniform(-0.03, 0.03), rng.uniform(-0.05, 0.05)
        piece = 0.35 * (1 - np.hypot((x - cx) / a, (y - cy) / b))
        field = np.maximum(field, piece)
    return (field + 0.03 * smooth_field(coarse, 6, rng) + 0.012 * smooth_field(coarse, 25, rng)).astype(np.float32)


def _nests(coarse: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A bent hexagonal lattice on the coarse grid: 1 in the middle of a nest, -0.5 between; mean near 0."""
    y, x = np.mgrid[: coarse[0], : coarse[1]].astype(np.float32)
    wavelength = rng.uniform(*NEST_PITCH) / (MPP * GRID) * 3**0.5 / 2
    turn = rng.uniform(0, np.pi)
    bend = 0.2 * wavelength
    x, y = x + bend * smooth_field(coarse, 8, rng), y + bend * smooth_field(coarse, 8, rng)
    waves = 0.0
    for angle in turn + np.pi / 3 * np.arange(3):
        along = x * np.cos(angle) + y * np.sin(angle)
        waves = waves + np.cos(2 * np.pi * along / wavelength)
    return (waves / 3).astype(np.float32)


def _strands(nests: np.ndarray) -> np.ndarray:
    """What lies between the nests, with mean 0, so that the mean of the eosin does not tell how much of it there is."""
    strands = np.maximum(0.25 - nests, 0)
    return strands - strands.mean()


def _patches(within: np.ndarray, share: float, cells: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth field that is positive on `share` of the area of `within`, and negative elsewhere."""
    field = smooth_field(within.shape, cells, rng)
    if not within.any():
        return np.full(within.shape, -1.0, np.float32)
    field = field - np.quantile(field[within], 1 - share)
    return np.where(within, field, np.minimum(field, -0.02)).astype(np.float32)


def _stamp(
    blue: np.ndarray,
    eosin: np.ndarray,
    kind: str,
    expected: np.ndarray,
    size: float,
    grain: float,
    rng: np.random.Generator,
) -> None:
    """Draw nuclei into both concentration maps, in place. `expected` is the mean number per coarse cell."""
    height, width = blue.shape
    number = rng.poisson(expected)
    cell = np.repeat(np.arange(number.size), number.ravel())
    top = (cell // expected.shape[1] * GRID + rng.integers(0, GRID, len(cell))) - NUCLEUS // 2
    left = (cell % expected.shape[1] * GRID + rng.integers(0, GRID, len(cell))) - NUCLEUS // 2
    keep = (top >= 0) & (left >= 0) & (top < height - NUCLEUS) & (left < width - NUCLEUS)
    which = np.clip(rng.normal(size, 0.22, len(cell)), 0, 1) * (N_STAMPS - 1)
    stamps, clearing, grains = nuclei(kind)
    stamps = stamps * np.maximum(1 + grain * grains, 0)
    strength = 0.9 if kind == "oligodendroglial" else 0.35
    clearing = 1 - strength * clearing
    darkness = rng.uniform(0.8, 1.2, len(cell)).astype(np.float32)
    for y, x, k, dark in zip(
        top[keep].tolist(), left[keep].tolist(), which[keep].astype(int).tolist(), darkness[keep], strict=True
    ):
        window = (slice(y, y + NUCLEUS), slice(x, x + NUCLEUS))
        np.maximum(blue[window], stamps[k] * dark, out=blue[window])
        eosin[window] *= clearing[k]


def _beer_lambert(blue: np.ndarray, eosin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stain concentrations [height, width] to uint8 RGB, with this slide's own stain vectors, strengths and white."""
    stains = STAINS + STAIN_JITTER * rng.standard_normal(STAINS.shape).astype(np.float32)
    stains *= np.exp(STRENGTH_JITTER * rng.standard_normal((2, 1))).astype(np.float32)
    white = 242 + rng.uniform(-4, 4, 3).astype(np.float32)
    image = np.empty((*blue.shape, 3), np.uint8)
    for top in range(0, len(image), STRIP):
        strip = slice(top, top + STRIP)
        for channel in range(3):
            density = blue[strip] * stains[0, channel]
            density += eosin[strip] * stains[1, channel]
            np.exp(-density, out=density)
            density *= white[channel]
            image[strip, :, channel] = density  # truncation, as in a scanner's integer pixels
    return image

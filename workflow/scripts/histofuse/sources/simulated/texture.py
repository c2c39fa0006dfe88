"""Ready-made pieces that every slide is put together from: noise fields and nuclei. Made once per process."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

BANK = 1024  # side of a periodic noise field, pixels
NUCLEUS = 28  # side of a stamp, pixels (14 µm)
N_STAMPS = 96


@cache
def noise_bank() -> dict[str, np.ndarray]:
    """Periodic fields [BANK, BANK] float32, named by what they imitate: standard normal, but for the vacuoles.

    These are shares of the eosin that is left: 1 outside, 0.2 in the clearest vacuole.
    """
    rng = np.random.default_rng(20210101)
    # Widths in pixels of half a micrometre: grain of the neuropil, vacuoles, patches, fibrils, uneven thickness.
    sigmas = {
        "grain": (0.7, 0.7),
        "vacuole": (1.5, 1.5),
        "patch": (3.5, 3.5),
        "fibril": (1.0, 3.5),
        "broad": (25.0, 25.0),
    }
    bank = {}
    for name, sigma in sigmas.items():
        field = gaussian_filter(rng.standard_normal((BANK, BANK), dtype=np.float32), sigma, mode="wrap")
        if name == "grain":  # nothing that would be left after averaging over 1 µm
            field = field - gaussian_filter(field, 1.0, mode="wrap")
        bank[name] = field / field.std()
    bank["vacuole"] = 1 - np.clip(1.3 * bank["vacuole"] - 1.6, 0, 0.8)
    return bank


def noise(name: str, shape: tuple[int, int], rng: np.random.Generator, amplitude: float = 1.0) -> np.ndarray:
    """A field of the bank at a random shift, flip and transposition, times `amplitude`, repeated to `shape`."""
    field = np.roll(noise_bank()[name], tuple(rng.integers(0, BANK, 2)), (0, 1))
    field = field[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    if rng.random() < 0.5:
        field = field.T
    field = np.multiply(field, np.float32(amplitude), order="C")
    repeated = np.empty(shape, np.float32)
    for top in range(0, shape[0], BANK):
        for left in range(0, shape[1], BANK):
            block = repeated[top : top + BANK, left : left + BANK]
            block[:] = field[: block.shape[0], : block.shape[1]]
    return repeated


def smooth_field(shape: tuple[int, int], cells: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth standard-normal field with about `cells` bumps along its longer side, [shape] float32."""
    step = max(shape) / cells
    coarse = rng.standard_normal((int(shape[0] / step) + 3, int(shape[1] / step) + 3)).astype(np.float32)
    field = enlarge(coarse, shape)
    return (field - field.mean()) / field.std()


def enlarge(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bicubic interpolation of a float field to a larger shape."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC))


@cache
def nuclei(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps of nuclei: haematoxylin, clearing of the eosin around them, and grain, a pattern finer than 2 µm.

    Each is [N_STAMPS, NUCLEUS, NUCLEUS] float32; the grain has mean 0 and standard deviation 1.

    kind : "tumour" (oval, 9 to 14 µm by pleomorphism, open chromatin, sorted from small and round to large and
        irregular), "lymphocyte" (round, 6 µm, dense), "oligodendroglial" (round, with a clear halo)
    """
    rng = np.random.default_rng([20210102, ("tumour", "lymphocyte", "oligodendroglial").index(kind)])
    y, x = np.mgrid[:NUCLEUS, :NUCLEUS].astype(np.float32) - (NUCLEUS - 1) / 2
    angle_of = np.arctan2(y, x)
    blue, clear, grain = [], [], []
    for k in range(N_STAMPS):
        progress = k / (N_STAMPS - 1)
        if kind == "tumour":
            radius, elongation = rng.normal(5.2 + 2.6 * progress, 0.5), rng.uniform(1.1, 1.3 + 0.7 * progress)
            dent, density = 0.05 + 0.12 * progress, 0.85
        elif kind == "lymphocyte":
            radius, elongation, dent, density = rng.normal(5.0, 0.3), rng.uniform(1.0, 1.1), 0.03, 1.55
        else:
            radius, elongation, dent, density = rng.normal(6.0, 0.4), rng.uniform(1.0, 1.12), 0.03, 1.05
        turn, lobes = rng.uniform(0, np.pi), int(rng.integers(2, 4))
        u = (x * np.cos(turn) + y * np.sin(turn)) / np.sqrt(elongation)
        v = (y * np.cos(turn) - x * np.sin(turn)) * np.sqrt(elongation)
        distance = np.hypot(u, v) / (radius * (1 + dent * np.cos(lobes * angle_of + rng.uniform(0, 6))))
        inside = np.clip((1.05 - distance) * radius * 0.8, 0, 1)
        chromatin = gaussian_filter(rng.standard_normal(x.shape), 1.1)
        chromatin = 1 + (0.12 if kind == "lymphocyte" else 0.3) * chromatin / chromatin.std()
        rim = 1 + 0.35 * np.exp(-(((distance - 0.9) / 0.14) ** 2))
        blue.append(density * inside * np.clip(chromatin, 0.3, 1.8) * rim)
        reach = 1.75 if kind == "oligodendroglial" else 1.25
        clear.append(np.clip((reach - distance) * 3.0, 0, 1))
        white = rng.standard_normal(x.shape)
        fine = gaussian_filter(white, 0.6) - gaussian_filter(white, 1.2)
        grain.append((fine - fine.mean()) / fine.std())
    return np.asarray(blue, np.float32), np.asarray(clear, np.float32), np.asarray(grain, np.float32)

"""A slide's stains on the way from its tissue to the encoder: sampled once, recorded, applied to every tile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from histofuse.slides.reader import Slide
from histofuse.slides.stain import (
    STAINS,
    StainMap,
    Stains,
    estimate_or_fall_back,
    is_tissue,
    load_target,
    sample_pixels,
)

# At most this many tiles of a slide are read for its stains: two per cent of a large slide's.
STAIN_TILES = 50
# Of a slide's row: the method that was applied; why it is not the one asked for; pixels looked at; how far the stains
# moved between the last two checks; each stain's optical density in R, G, B and its 99th percentile.
STAIN_COLUMNS = {
    "stain": "str",
    "stain_reason": "str",
    "stain_pixels": "Int64",
    "stain_moved_degrees": "float64",
    **{f"{stain}_{part}": "float64" for stain in STAINS for part in ("r", "g", "b", "p99")},
}


def check_target(options: dict) -> None:
    """End the run before its first slide, with an InputError, when the target's stains cannot be told."""
    for method in {options["method"], options["fallback"]} - {"none"} if options["method"] != "none" else ():
        load_target(options["target"], method)


def fit_stains(
    slide: Slide, tissue: np.ndarray, mask_mpp: float, coords: np.ndarray, size_px: int, mpp: float, options: dict
) -> tuple[Stains | None, str]:
    """The slide's stains, or None where tiles stay as they are, and why they are not by the method asked for.

    They are estimated from pixels of tissue of a sample of the squares at `coords` (int64 [n, 2], level 0;
    `size_px` pixels at `mpp`), and do not depend on the order of these. `tissue` bool [rows, columns] is the
    slide's mask at `mask_mpp`, without ink. `options`: `method`, `pixels`, `seed`, `fallback`.
    """
    if options["method"] == "none":
        return None, ""
    coords = coords[np.lexsort(coords.T)]
    if len(coords) > STAIN_TILES:
        chosen = np.random.default_rng(options["seed"]).choice(len(coords), STAIN_TILES, replace=False)
        coords = coords[np.sort(chosen)]
    pixels: dict[int, np.ndarray] = {}
    side = slide.footprint(size_px, mpp)
    for places, tiles in slide.tiles(coords, size_px, mpp):
        for place, tile in zip(places.tolist(), tiles, strict=True):
            mask = _mask_of_tile(tissue, mask_mpp / slide.mpp, coords[place], side, size_px)
            pixels[place] = tile[is_tissue(tile) & mask]
    sample = sample_pixels([pixels[place] for place in sorted(pixels)], options["pixels"], options["seed"])
    return estimate_or_fall_back(sample, options["method"], options["fallback"])


def normaliser(stains: Stains | None, options: dict) -> Callable[[np.ndarray], np.ndarray]:
    """The map of tiles uint8 [..., 3] to normalised ones; without stains the tiles themselves."""
    return (lambda tiles: tiles) if stains is None else StainMap(stains, load_target(options["target"], stains.method))


def stain_columns(stains: Stains | None, reason: str) -> dict:
    """STAIN_COLUMNS of a slide's row; Reinhard's numbers are no stains and stand in the HDF5 file only."""
    if stains is None:
        return {"stain": "none", "stain_reason": reason}
    numbers = {"stain_pixels": stains.pixels, "stain_moved_degrees": stains.moved_degrees}
    if stains.method != "reinhard":
        for stain, density, p99 in zip(STAINS, stains.matrix, stains.p99, strict=True):
            numbers |= dict(zip([f"{stain}_{part}" for part in ("r", "g", "b", "p99")], [*density, p99], strict=True))
    return {"stain": stains.method, "stain_reason": reason} | numbers


def stain_attributes(stains: Stains | None, reason: str, options: dict) -> dict:
    """What the features' attributes say about stains; nothing when no normalisation was asked for."""
    if options["method"] == "none":
        return {}
    if stains is None:
        return {"stain": "none", "stain_reason": reason}
    return {
        "stain": stains.method,
        "stain_reason": reason,
        "stain_target": options["target"],
        "stain_pixels": stains.pixels,
        "stain_seed": options["seed"],
        "stain_moved_degrees": stains.moved_degrees,
        "stain_matrix": stains.matrix,
        "stain_p99": stains.p99,
    }


def _mask_of_tile(tissue: np.ndarray, mask_pixel: float, corner: np.ndarray, side: int, size_px: int) -> np.ndarray:
    """The tissue mask at a tile's pixels: bool [size_px, size_px]. `mask_pixel` and `side` are in level-0 pixels."""
    centres = (np.arange(size_px) + 0.5) * side / size_px
    columns, rows = (
        np.minimum((start + centres) / mask_pixel, n - 1).astype(int)
        for start, n in zip(corner, reversed(tissue.shape), strict=True)
    )
    return tissue[np.ix_(rows, columns)]

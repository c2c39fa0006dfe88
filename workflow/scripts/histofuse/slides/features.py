"""From a slide file to features on disk: tissue, tiles, encoding, and a picture to check them by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from histofuse.io import InputError, atomic, progress
from histofuse.slides.encoders import Encoder
from histofuse.slides.reader import UM_PER_PX_AT_1X, Slide, SlideError, open_slide
from histofuse.slides.stain import (
    STAINS,
    StainMap,
    Stains,
    estimate_or_fall_back,
    is_tissue,
    load_target,
    sample_pixels,
)
from histofuse.slides.tiles import repeat_index, tile_grid
from histofuse.slides.tissue import MASK_MPP, outline, tissue_mask

# The longer side of the picture of a slide, at most.
PICTURE_PX = 1024
OUTLINE_COLOUR = (0, 114, 178)
TILE_COLOUR = (0, 158, 115)
# At most this many tiles of a slide are read for its stains: two per cent of a large slide's.
STAIN_TILES = 50
COLUMNS = {
    "slide_id": "str",
    "case_id": "str",
    "status": "str",
    "reason": "str",
    "width": "Int64",
    "height": "Int64",
    "mpp": "float64",
    "n_tiles": "Int64",
    "tissue_fraction": "float64",
    # The method that was applied; why it is not the one asked for; pixels looked at; how far the stains moved between
    # the last two checks; each stain's optical density in R, G, B and its 99th percentile.
    "stain": "str",
    "stain_reason": "str",
    "stain_pixels": "Int64",
    "stain_moved_degrees": "float64",
    **{f"{stain}_{part}": "float64" for stain in STAINS for part in ("r", "g", "b", "p99")},
}


def encode_slides(
    receipt: pd.DataFrame, settings: dict, encoder: Encoder, directory: Path, threads: int = 1
) -> pd.DataFrame:
    """Encode all slides of a receipt (columns `path, filename, case_id`) into `directory`; a row per slide.

    A slide that cannot be used becomes a row with status "excluded" and its reason. The frame has the columns
    of COLUMNS, in the receipt's order.
    """
    slide_ids = [Path(name).stem for name in receipt["filename"]]
    if twice := sorted({i for i in slide_ids if slide_ids.count(i) > 1}):
        raise InputError(f"the receipt names slide {twice[0]} more than once; keep one row per slide")
    if settings["stain"]["method"] != "none":
        for method in {settings["stain"]["method"], settings["stain"]["fallback"]} - {"none"}:
            load_target(settings["stain"]["target"], method)  # a bad target ends the run before its first slide
    rows = []
    slides = zip(receipt["path"], slide_ids, receipt["case_id"])
    for path, slide_id, case_id in progress(slides, "slides", total=len(receipt)):
        row = encode_slide(path, slide_id, settings, encoder, directory, threads)
        rows.append(row | {"case_id": case_id})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def encode_slide(
    path: str | Path, slide_id: str, settings: dict, encoder: Encoder, directory: Path, threads: int = 1
) -> dict:
    """Encode one slide: writes `{slide_id}.h5` and `{slide_id}.png` into `directory` and returns its row.

    Settings: `mpp` and `tile_px` of a tile, `min_tissue` (smallest share of tissue in a tile), `max_tiles`
    (more are thinned by an even stride), `mpp_overrides` (slide id to µm/px where a file is silent or wrong),
    `stain` (`method`, `target`, `pixels`, `seed`, `fallback`: how tiles are normalised before they are encoded).
    The row has the keys of COLUMNS but `case_id`; status is "used" or "excluded".
    """
    row = {"slide_id": slide_id, "status": "excluded", "reason": "", "n_tiles": 0, "stain": "", "stain_reason": ""}
    try:
        with open_slide(path, settings["mpp_overrides"].get(slide_id)) as slide:
            row |= {"width": slide.width, "height": slide.height, "mpp": slide.mpp}
            thumbnail = slide.thumbnail(MASK_MPP)
            mask = tissue_mask(thumbnail, MASK_MPP)
            row["tissue_fraction"] = float(mask.mean())
            coords = _choose_tiles(slide, mask, settings)
            stains, reason = _stains(slide, mask, coords, settings, threads)
            row |= _stain_columns(stains, reason)
            features = _encode_tiles(slide, coords, stains, settings, encoder, threads)
            notes = _stain_attributes(stains, reason, settings)
            _write_features(directory / f"{slide_id}.h5", slide_id, slide, coords, features, notes, settings, encoder)
            side = slide.footprint(settings["tile_px"], settings["mpp"]) * slide.mpp / MASK_MPP
            corners = coords * slide.mpp / MASK_MPP
        with atomic(directory / f"{slide_id}.png") as temporary:
            _picture(thumbnail, mask, corners, side).save(temporary)
    except SlideError as error:
        return row | {"reason": str(error)}
    return row | {"status": "used", "n_tiles": len(coords)}


def _choose_tiles(slide: Slide, mask: np.ndarray, settings: dict) -> np.ndarray:
    """Level-0 coordinates int64 [n, 2] of the tiles to encode, 1 ≤ n ≤ max_tiles."""
    if not mask.any():
        raise SlideError("no tissue found")
    side = slide.footprint(settings["tile_px"], settings["mpp"])
    pixel = MASK_MPP / slide.mpp
    coords, _ = tile_grid(mask, pixel, slide.width, slide.height, side, settings["min_tissue"])
    if not len(coords):
        raise SlideError(f"no tile is at least {settings['min_tissue']:.0%} tissue")
    # A bag larger than max_tiles would skip the others anyway, so they are never encoded.
    n_kept = min(len(coords), settings["max_tiles"])
    return coords[repeat_index(len(coords), n_kept)]


def _stains(
    slide: Slide, mask: np.ndarray, coords: np.ndarray, settings: dict, threads: int
) -> tuple[Stains | None, str]:
    """The slide's stains, or None where tiles stay as they are, and why they are not by the method asked for.

    They are estimated from pixels of tissue of a sample of the tiles; neither depends on the order of the tiles.
    """
    options = settings["stain"]
    if options["method"] == "none":
        return None, ""
    coords = coords[np.lexsort(coords.T)]
    if len(coords) > STAIN_TILES:
        chosen = np.random.default_rng(options["seed"]).choice(len(coords), STAIN_TILES, replace=False)
        coords = coords[np.sort(chosen)]
    tiles = (tile for batch in _read_batches(slide, coords, settings, 8, threads) for tile in batch)
    pixels = [
        tile[is_tissue(tile) & _mask_of_tile(slide, mask, corner, settings)]
        for tile, corner in zip(tiles, coords, strict=True)
    ]
    sample = sample_pixels(pixels, options["pixels"], options["seed"])
    return estimate_or_fall_back(sample, options["method"], options["fallback"])


def _mask_of_tile(slide: Slide, mask: np.ndarray, corner: np.ndarray, settings: dict) -> np.ndarray:
    """The tissue mask at a tile's pixels: bool [tile_px, tile_px]."""
    size = settings["tile_px"]
    side = slide.footprint(size, settings["mpp"])
    centres = (np.arange(size) + 0.5) * side / size
    columns, rows = (
        np.minimum((start + centres) * slide.mpp / MASK_MPP, n - 1).astype(int)
        for start, n in zip(corner, reversed(mask.shape), strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _stain_columns(stains: Stains | None, reason: str) -> dict:
    """The columns about stains of a slide's row; Reinhard's numbers are no stains and stand in the HDF5 file only."""
    if stains is None:
        return {"stain": "none", "stain_reason": reason}
    numbers = {"stain_pixels": stains.pixels, "stain_moved_degrees": stains.moved_degrees}
    if stains.method != "reinhard":
        for stain, density, p99 in zip(STAINS, stains.matrix, stains.p99, strict=True):
            numbers |= dict(zip([f"{stain}_{part}" for part in ("r", "g", "b", "p99")], [*density, p99], strict=True))
    return {"stain": stains.method, "stain_reason": reason} | numbers


def _stain_attributes(stains: Stains | None, reason: str, settings: dict) -> dict:
    """What the features' attributes say about stains; nothing when no normalisation was asked for."""
    options = settings["stain"]
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


def _encode_tiles(
    slide: Slide, coords: np.ndarray, stains: Stains | None, settings: dict, encoder: Encoder, threads: int
) -> np.ndarray:
    """Features float32 [n, dim]."""
    batches = _read_batches(slide, coords, settings, encoder.batch, threads)
    if stains is not None:
        batches = map(StainMap(stains, load_target(settings["stain"]["target"], stains.method)), batches)
    features = np.concatenate([encoder.encode(tiles) for tiles in batches])
    if not np.isfinite(features).all():
        raise SlideError("the encoder gave values that are not finite")
    return features


def _read_batches(slide: Slide, coords: np.ndarray, settings: dict, size: int, threads: int) -> Iterator[np.ndarray]:
    """Batches of tiles uint8 [≤ size, tile_px, tile_px, 3]; the next batch is read while one is encoded."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for first in range(0, len(coords), size):
            part = coords[first : first + size]
            waiting.append([pool.submit(slide.read, x, y, settings["tile_px"], settings["mpp"]) for x, y in part])
            if len(waiting) == 2:
                yield np.stack([tile.result() for tile in waiting.popleft()])
        while waiting:
            yield np.stack([tile.result() for tile in waiting.popleft()])


def _write_features(
    path: Path,
    slide_id: str,
    slide: Slide,
    coords: np.ndarray,
    features: np.ndarray,
    notes: dict,
    settings: dict,
    encoder: Encoder,
) -> None:
    """HDF5 as TRIDENT writes it: `features` [n, dim], `coords` [n, 2], and their meaning as attributes.

    `notes` are more attributes of the features.
    """
    tile_px, mpp = settings["tile_px"], settings["mpp"]
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        dataset = file.create_dataset("features", data=features)
        dataset.attrs.update({"name": slide_id, "encoder": encoder.name, "encoder_sha256": encoder.digest} | notes)
        dataset = file.create_dataset("coords", data=coords)
        dataset.attrs.update(
            {
                "patch_size": tile_px,
                "patch_size_level0": slide.footprint(tile_px, mpp),
                "level0_magnification": round(UM_PER_PX_AT_1X / slide.mpp),
                "target_magnification": round(UM_PER_PX_AT_1X / mpp, 2),
                "overlap": 0,
                "name": slide_id,
                "level0_width": slide.width,
                "level0_height": slide.height,
                "level0_mpp": slide.mpp,
                "target_mpp": mpp,
            }
        )


def _picture(thumbnail: np.ndarray, mask: np.ndarray, corners: np.ndarray, side: float) -> Image.Image:
    """The thumbnail with the rim of the tissue (blue) and the frames of the tiles (green).

    `corners` [n, 2] and `side` are in thumbnail pixels.
    """
    zoom = min(PICTURE_PX / max(mask.shape), 4.0)
    size = max(1, round(mask.shape[1] * zoom)), max(1, round(mask.shape[0] * zoom))
    image = np.asarray(Image.fromarray(thumbnail).resize(size)).copy()
    tiles = np.zeros(image.shape[:2], bool)
    for x, y in corners:
        left, top, right, bottom = (int(v * zoom) for v in (x, y, x + side, y + side))
        tiles[top : bottom + 1, [left, min(right, size[0] - 1)]] = True
        tiles[[top, min(bottom, size[1] - 1)], left : right + 1] = True
    image[tiles] = TILE_COLOUR
    rim = outline(np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)), thickness=2)
    image[rim] = OUTLINE_COLOUR
    return Image.fromarray(image)

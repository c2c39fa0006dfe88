"""The fixed crops of regions: where they lie, and their features."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd

from histofuse.io import InputError, atomic, progress, read_table
from histofuse.slides.encoders import Encoder
from histofuse.slides.reader import UM_PER_PX_AT_1X


def crop_corners(side: int, crop: int, stride: int) -> np.ndarray:
    """Corners (x, y) int64 [n, 2] of the square crops of a square, in raster order: `stride` apart, wholly inside.

    1024, 512 and 256 give the 9 of {0, 256, 512}²; a crop as large as the square is the square. Raises InputError
    when it is larger.
    """
    if not 0 < crop <= side or stride < 1:
        raise InputError(
            f"crops of {crop} px, {stride} px apart, cannot be cut from regions of {side} px; change crop_px, stride_px"
        )
    offsets = np.arange(0, side - crop + 1, stride, dtype=np.int64)
    return np.stack([np.tile(offsets, len(offsets)), np.repeat(offsets, len(offsets))], axis=1)


def cut_crops(region: np.ndarray, corners: np.ndarray, crop: int, size: int) -> np.ndarray:
    """Crops of a region uint8 [side, side, 3] as uint8 [n, size, size, 3]: reduced by area, enlarged smoothly."""
    method = cv2.INTER_AREA if crop > size else cv2.INTER_CUBIC
    out = np.empty((len(corners), size, size, 3), np.uint8)
    for target, (x, y) in zip(out, corners, strict=True):
        cut = region[y : y + crop, x : x + crop]
        target[:] = cut if crop == size else cv2.resize(cut, (size, size), interpolation=method)
    return out


def encode_regions(source: Path, regions: dict, settings: dict, encoder: Encoder, directory: Path) -> pd.DataFrame:
    """Encode the fixed crops of a batch of slides' regions into a folder as `features.encode_slides` leaves it.

    Parameters: `source`, a folder as `regions.cut_regions` leaves it; `regions`, the settings it was cut with
    (`side_px`, `crop_px`, `stride_px`); `settings` of the features (`tile_px`: what a crop is resized to). A slide's
    tiles are its regions' crops, region by region; their coordinates are level-0 pixels of the slide.

    Returns the rows of the slides: those of `source` with the number of crops as `n_tiles`. A slide whose features
    are not finite is excluded.
    """
    side, crop = regions["side_px"], regions["crop_px"]
    corners = crop_corners(side, crop, regions["stride_px"])
    slides = read_table(source / "slides.parquet")
    where = dict(list(read_table(source / "regions.parquet").groupby("slide_id")))
    directory.mkdir(parents=True, exist_ok=True)
    slides["n_tiles"] = np.where(slides["status"] == "used", slides["n_regions"] * len(corners), 0)
    slides["n_tiles"] = slides["n_tiles"].astype("Int64")
    used = slides.index[slides["status"] == "used"]
    for row in progress(used, "slides", total=len(used)):
        slide_id, table = slides.loc[row, "slide_id"], where[slides.loc[row, "slide_id"]]
        pixels = np.fromfile(source / f"{slide_id}.u8", np.uint8).reshape(len(table), side, side, 3)
        features, _ = encoder.encode_all(cut_crops(region, corners, crop, settings["tile_px"]) for region in pixels)
        if not np.isfinite(features).all():
            reason = "the encoder gave values that are not finite"
            slides.loc[row, ["status", "reason", "n_tiles"]] = ["excluded", reason, 0]
            continue
        zoom = table["side"].iloc[0] / side  # level-0 pixels per pixel of a region; a slide's regions share it
        places = table[["x", "y"]].to_numpy()[:, None] + np.rint(corners * zoom).astype(np.int64)
        attributes = _attributes(slides.loc[row], table, zoom, regions, settings["tile_px"])
        _write(directory / f"{slide_id}.h5", features, places.reshape(-1, 2), attributes, encoder)
        for suffix in (".png", ".thumbnail.jpg"):
            shutil.copyfile(source / f"{slide_id}{suffix}", directory / f"{slide_id}{suffix}")
    return slides


def _attributes(slide: pd.Series, table: pd.DataFrame, zoom: float, regions: dict, tile_px: int) -> dict:
    """What TRIDENT says about coordinates."""
    mpp = float(table["mpp"].iloc[0]) * regions["crop_px"] / tile_px
    return {
        "patch_size": tile_px,
        "patch_size_level0": round(regions["crop_px"] * zoom),
        "level0_magnification": round(UM_PER_PX_AT_1X / slide["mpp"]),
        "target_magnification": round(UM_PER_PX_AT_1X / mpp, 2),
        "overlap": max(0, round((regions["crop_px"] - regions["stride_px"]) * tile_px / regions["crop_px"])),
        "name": slide["slide_id"],
        "level0_width": int(slide["width"]),
        "level0_height": int(slide["height"]),
        "level0_mpp": float(slide["mpp"]),
        "target_mpp": mpp,
    }


def _write(path: Path, features: np.ndarray, coords: np.ndarray, attributes: dict, encoder: Encoder) -> None:
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        dataset = file.create_dataset("features", data=features)
        dataset.attrs.update({"name": attributes["name"], "encoder": encoder.name, "encoder_sha256": encoder.digest})
        file.create_dataset("coords", data=coords).attrs.update(attributes)

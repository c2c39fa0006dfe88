"""All slides of a cohort in one memory map, for training: a row per tile, in half precision."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from histofuse.io import InputError, atomic, progress, read_table, write_table

TILE_DTYPE = np.dtype("<f2")


def gather_slides(directories: list[str | Path], max_excluded: float) -> pd.DataFrame:
    """The rows of every directory's `slides.parquet`, by slide id, with the column `directory` added.

    Raises InputError when there are no slides, one occurs twice, none can be used, or the excluded ones are
    more than the share `max_excluded` (0 to 1) of all.
    """
    if not directories:
        raise InputError("there are no slides to pack; a task with slides needs a cohort that has some")
    frames = [read_table(Path(d) / "slides.parquet").assign(directory=str(d)) for d in directories]
    slides = pd.concat(frames, ignore_index=True).sort_values("slide_id", ignore_index=True)
    if (twice := slides["slide_id"].duplicated()).any():
        raise InputError(f"slide {slides.loc[twice, 'slide_id'].iloc[0]} was encoded twice; keep one file per slide")
    excluded = slides[slides["status"] == "excluded"]
    share = len(excluded) / max(len(slides), 1)
    if share > max_excluded or len(excluded) == len(slides):
        reasons = "; ".join(f"{row.slide_id}: {row.reason}" for row in excluded.head(5).itertuples())
        raise InputError(
            f"{len(excluded)} of {len(slides)} slides are excluded ({reasons}): all of them, or more than "
            f"max_excluded = {max_excluded:g} allows. Mend the slides or raise the limit"
        )
    return slides


def pack(slides: pd.DataFrame, tiles_path: Path, index_path: Path) -> pd.DataFrame:
    """Write the features of all used slides as one map and return its index.

    Parameters: `slides` as `gather_slides` gives it. `tiles_path` gets little-endian float16 [N, dim],
    row-major and without a header: `numpy.memmap(path, "<f2", "r", shape=(N, dim))`. `index_path` gets one
    row per slide: `slide_id, case_id, first_tile, n_tiles, dim`; a slide's tiles are the rows `first_tile` to
    `first_tile + n_tiles`.

    Raises InputError naming the slide when its features are missing, not finite, too large for half
    precision, or of another width or encoder than the others'.
    """
    used = slides[slides["status"] == "used"]
    rows, first, reference = [], 0, None
    with atomic(tiles_path) as temporary, temporary.open("wb") as file:
        for slide in progress(used.itertuples(), "packing", total=len(used)):
            features, encoder = read_features(Path(slide.directory) / f"{slide.slide_id}.h5")
            reference = reference or (features.shape[1], encoder)
            if reference != (features.shape[1], encoder):
                raise InputError(
                    f"slide {slide.slide_id}: its features have width {features.shape[1]} (weights "
                    f"{encoder or 'unknown'}), those before it {reference[0]} ({reference[1] or 'unknown'}). "
                    "Encode all slides with the same encoder"
                )
            file.write(_as_half(features, slide.slide_id).tobytes())
            rows.append((slide.slide_id, slide.case_id, first, len(features), features.shape[1]))
            first += len(features)
    index = pd.DataFrame(rows, columns=["slide_id", "case_id", "first_tile", "n_tiles", "dim"])
    write_table(index, index_path)
    return index


def read_features(path: Path) -> tuple[np.ndarray, str]:
    """`features` [n, dim] of an HDF5 file as TRIDENT or CLAM writes it, and the sha256 of the weights.

    The digest is "" in files that other programs wrote. Older TRIDENT files hold [1, n, dim]. Raises
    InputError.
    """
    try:
        with h5py.File(path, "r") as file:
            features = file["features"][()]
            encoder = str(file["features"].attrs.get("encoder_sha256", ""))
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as HDF5 with a dataset 'features' ({error})") from error
    if features.ndim == 3 and features.shape[0] == 1:
        features = features[0]
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind != "f":
        raise InputError(f"{path}: 'features' must be numbers [tiles, dim], not {features.dtype} {features.shape}")
    return features, encoder


def _as_half(features: np.ndarray, slide_id: str) -> np.ndarray:
    if not np.isfinite(features).all():
        raise InputError(f"slide {slide_id}: its features hold NaN or infinite values; encode it again")
    largest, limit = float(np.abs(features).max()), float(np.finfo(TILE_DTYPE).max)
    if largest > limit:
        raise InputError(
            f"slide {slide_id}: a feature of {largest:.4g} does not fit half precision (at most "
            f"{limit:.0f}). Use an encoder whose features are of ordinary size"
        )
    return features.astype(TILE_DTYPE)

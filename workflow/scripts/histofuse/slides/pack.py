"""All slides of a cohort in one memory map, for training: a row per tile, in half precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from histofuse.io import InputError, atomic, progress, read_table, write_table
from histofuse.slides.machine import of_the_machine

TILE_DTYPE, COORDS_DTYPE = np.dtype("<f2"), np.dtype("<i4")
# Stands for coordinates and sides of tiles that a file does not tell.
UNKNOWN = -1


@dataclass(frozen=True)
class Features:
    """A slide's features as a file holds them.

    Attributes
    ----------
    values : float [n, dim], of the file's own precision.
    coords : int64 [n, 2], upper left corners in level-0 pixels (x, y); UNKNOWN where the file has none.
    side : a tile's side in level-0 pixels, or UNKNOWN.
    weights : sha256 of the encoder's weights; "" in files that other programs wrote.
    """

    values: np.ndarray
    coords: np.ndarray
    side: int = UNKNOWN
    weights: str = ""


def gather_slides(directories: list[str | Path], max_excluded: float) -> pd.DataFrame:
    """The rows of every directory's `slides.parquet`, by slide id, with the column `directory` added.

    Raises InputError when there are no slides, one occurs twice, none can be used, or the excluded ones are
    more than the share `max_excluded` (0 to 1) of all.
    """
    if not directories:
        raise InputError("there are no slides to pack; a task with slides needs a cohort that has some")
    frames = [read_table(Path(d) / "slides.parquet").assign(directory=str(d)) for d in directories]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise InputError("there are no slides to pack: no table of regions, where one is given, names any of them")
    slides = pd.concat(frames, ignore_index=True).sort_values("slide_id", ignore_index=True)
    if (twice := slides["slide_id"].duplicated()).any():
        raise InputError(f"slide {slides.loc[twice, 'slide_id'].iloc[0]} was encoded twice; keep one file per slide")
    excluded = slides[slides["status"] == "excluded"]
    share = len(excluded) / len(slides)
    if share > max_excluded or len(excluded) == len(slides):
        reasons = "; ".join(f"{row.slide_id}: {row.reason}" for row in excluded.head(5).itertuples())
        raise InputError(
            f"{len(excluded)} of {len(slides)} slides are excluded ({reasons}): all of them, or more than "
            f"max_excluded = {max_excluded:g} allows. Mend the slides or raise the limit"
        )
    return slides


def pack(slides: pd.DataFrame, tiles_path: Path, index_path: Path, coords_path: Path) -> pd.DataFrame:
    """Write the features of all used slides as one map and return its index.

    Parameters: `slides` as `gather_slides` gives it; a slide's features lie in its `directory` as `{slide_id}.h5` or,
    dropped in, `{slide_id}.pt`. `tiles_path` gets little-endian float16 [N, dim],
    row-major and without a header: `numpy.memmap(path, "<f2", "r", shape=(N, dim))`. `coords_path` gets the tiles'
    upper left corners (x, y) in level-0 pixels as little-endian int32 [N, 2] in the same order, -1 where a file does
    not tell them. `index_path` gets one row per slide: `slide_id, case_id, first_tile, n_tiles, dim, side`; a
    slide's tiles are the rows `first_tile` to `first_tile + n_tiles`, each `side` level-0 pixels wide (-1: unknown).

    Raises InputError naming the slide when its features are missing, not finite, too large for half
    precision, or of another width or encoder than the others'.
    """
    used = slides[slides["status"] == "used"]
    rows, coords, first, reference = [], [], 0, None
    with atomic(tiles_path) as temporary, temporary.open("wb") as file:
        for slide in progress(used.itertuples(), "packing", total=len(used)):
            tensor = Path(slide.directory) / f"{slide.slide_id}.pt"
            features = read_features(tensor if tensor.exists() else tensor.with_name(f"{slide.slide_id}.h5"))
            n, dim = features.values.shape
            reference = reference or (dim, features.weights)
            if reference != (dim, features.weights):
                raise InputError(
                    f"slide {slide.slide_id}: its features have width {dim} (weights "
                    f"{features.weights or 'unknown'}), those before it {reference[0]} ({reference[1] or 'unknown'}). "
                    "Encode all slides with the same encoder"
                )
            if problem := unfit(features.values):
                raise InputError(f"slide {slide.slide_id}: {problem}")
            file.write(features.values.astype(TILE_DTYPE).tobytes())
            coords.append(features.coords.astype(COORDS_DTYPE))
            rows.append((slide.slide_id, slide.case_id, first, n, dim, features.side))
            first += n
    with atomic(coords_path) as temporary:
        np.concatenate(coords).tofile(temporary)
    index = pd.DataFrame(rows, columns=["slide_id", "case_id", "first_tile", "n_tiles", "dim", "side"])
    write_table(index, index_path)
    return index


def read_features(path: Path) -> Features:
    """Features of a slide in HDF5 as TRIDENT and CLAM write it, or as a saved tensor (.pt) as CLAM does.

    Arrays of shape [1, n, dim], as older TRIDENT files hold them, are taken too. Raises InputError.
    """
    return _from_tensor(path) if path.suffix == ".pt" else _from_hdf5(path)


def unfit(values: np.ndarray) -> str:
    """Why features cannot be stored in half precision; "" when they can."""
    if not np.isfinite(values).all():
        return "its features hold NaN or infinite values; encode it again"
    largest, limit = float(np.abs(values).max()), float(np.finfo(TILE_DTYPE).max)
    if largest > limit:
        return (
            f"a feature of {largest:.4g} does not fit half precision (at most {limit:.0f}). "
            "Use an encoder whose features are of ordinary size"
        )
    return ""


def _from_hdf5(path: Path) -> Features:
    try:
        with h5py.File(path, "r") as file:
            values = file["features"][()]
            weights = str(file["features"].attrs.get("encoder_sha256", ""))
            coords = file["coords"][()] if "coords" in file else None
            side = file["coords"].attrs.get("patch_size_level0", UNKNOWN) if "coords" in file else UNKNOWN
    except (OSError, KeyError, RuntimeError) as error:
        if of_the_machine(error):
            raise
        raise InputError(f"{path}: cannot be read as HDF5 with a dataset 'features' ({error})") from error
    values = _checked(path, values)
    return Features(values, _checked_coords(path, coords, len(values)), _whole_number(side), weights)


def _from_tensor(path: Path) -> Features:
    import torch  # only where a file needs it: packing HDF5 does not

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage raises its own
        if of_the_machine(error):
            raise
        raise InputError(f"{path}: cannot be read as a saved tensor ({error})") from error
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{path}: holds {type(tensor).__name__}, not a tensor of features")
    values = _checked(path, (tensor.float() if tensor.is_floating_point() else tensor).numpy())
    return Features(values, _checked_coords(path, None, len(values)))


def _checked(path: Path, values: object) -> np.ndarray:
    values = _without_batch(np.asarray(values))
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind != "f":
        raise InputError(f"{path}: 'features' must be numbers [tiles, dim], not {values.dtype} {values.shape}")
    return values


def _checked_coords(path: Path, coords: object, n: int) -> np.ndarray:
    if coords is None:
        return np.full((n, 2), UNKNOWN, np.int64)
    coords, largest = _without_batch(np.asarray(coords)), np.iinfo(COORDS_DTYPE).max
    numbers = coords.shape == (n, 2) and coords.dtype.kind in "iuf"
    if not (numbers and (coords == np.floor(coords)).all() and coords.min() >= 0 and coords.max() <= largest):
        raise InputError(f"{path}: 'coords' must be pixels of level 0 [{n}, 2], not {coords.dtype} {coords.shape}")
    return coords.astype(np.int64)


def _without_batch(values: np.ndarray) -> np.ndarray:
    return values[0] if values.ndim == 3 and values.shape[0] == 1 else values


def _whole_number(value: object) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return UNKNOWN

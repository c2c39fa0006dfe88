"""Regions of slides as a run reads them: a memory map of whole images, and the crops that stand for each of them.

Needs numpy, pandas and pyarrow only; `histofuse.training.augment` makes model inputs of the pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, read_table

# Mean and standard deviation per channel that images are normalised by: what pretrained weights have seen, and the
# plain halves that Pathomic Fusion's image model is trained with.
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# How far colours are changed at most: brightness, contrast and saturation as factors 1 ± x, hue in turns.
JITTER = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.05, "hue": 0.01}


class RegionStore:
    """A cohort's packed regions, a memory map uint8 [region, side, side, 3], and how crops are made of them.

    Args:
        path, index: as the regions were packed: the map without a header, and its table with `region` (row of the
            map), `slide_id`, `case_id`, `side_px` and `sha256` of its pixels.
        crop_px, stride_px: side of a crop, and how far the fixed crops of a prediction lie apart.
        input_px: what a crop is resized to.
        augment: whether training crops are also flipped and their colours changed; they lie at random either way.
        jitter: figures of JITTER to be changed. normalise: a name of NORMALISATIONS.

    Raises InputError when the files do not belong together or the settings do not fit them.
    """

    def __init__(
        self,
        path: str | Path,
        index: str | Path,
        crop_px: int = 512,
        stride_px: int = 256,
        input_px: int = 224,
        augment: bool = True,
        jitter: dict[str, float] | None = None,
        normalise: str = "imagenet",
    ):
        self.index = _read_index(index)
        self.side = int(self.index["side_px"].iloc[0])
        shape = (len(self.index), self.side, self.side, 3)
        if not Path(path).is_file() or Path(path).stat().st_size != np.prod(shape, dtype=np.int64):
            raise InputError(
                f"{path}: does not hold the {len(self.index)} regions of {self.side} × {self.side} px that {index} "
                "lists; pack the regions again"
            )
        if normalise not in NORMALISATIONS:
            raise InputError(f"inputs: regions: normalise: {normalise!r} is not one of {', '.join(NORMALISATIONS)}")
        if unknown := sorted(set(jitter or {}) - set(JITTER)):
            raise InputError(f"inputs: regions: jitter: no {unknown[0]}; there are {', '.join(JITTER)}")
        self.corners = crop_corners(self.side, crop_px, stride_px)
        self.crop, self.input_px, self.augment = crop_px, input_px, augment
        self.jitter = JITTER | (jitter or {})
        self.mean, self.sd = NORMALISATIONS[normalise]
        # Copy on write: torch shares the pages without a warning, and the file cannot be changed by accident.
        self.pixels = np.memmap(path, dtype=np.uint8, mode="c", shape=shape)

    def regions_of(self, case_ids: list[str]) -> pd.DataFrame:
        """`region, slide_id, case_id` of these cases' regions, in the order of the map."""
        rows = self.index.loc[self.index["case_id"].isin(case_ids), ["region", "slide_id", "case_id"]]
        return rows.reset_index(drop=True)

    def cut(self, regions: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """One crop of each region: int64 [n] and corners (x, y) int64 [n, 2] → uint8 [n, crop, crop, 3]."""
        crops = np.empty((len(regions), self.crop, self.crop, 3), dtype=np.uint8)
        for crop, region, (x, y) in zip(crops, regions, corners, strict=True):
            crop[:] = self.pixels[region, y : y + self.crop, x : x + self.crop]
        return crops


def crop_corners(side: int, crop: int, stride: int) -> np.ndarray:
    """Corners (x, y) int64 [n, 2] of the fixed crops of a square, row by row: `stride` apart, wholly inside.

    The same that region features are made of: 1024, 512 and 256 give the 9 of {0, 256, 512}². Raises InputError for
    crops that are larger than the square.
    """
    if not 0 < crop <= side or stride < 1:
        raise InputError(
            f"inputs: regions: crops of {crop} px, {stride} px apart, cannot be cut from regions of {side} px; "
            "change crop_px or stride_px"
        )
    offsets = np.arange(0, side - crop + 1, stride, dtype=np.int64)
    return np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)


def _read_index(path: str | Path) -> pd.DataFrame:
    index = read_table(path)
    if missing := {"region", "slide_id", "case_id", "side_px", "sha256"} - set(index.columns):
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}; pack the regions again")
    if index.empty:
        raise InputError(f"{path}: no slide has a region; see the exclusions in slides.parquet beside it")
    if (index["region"] != np.arange(len(index))).any() or index["side_px"].nunique() > 1:
        raise InputError(f"{path}: is not the index of one map (rows in another order, or several sizes); pack again")
    return index

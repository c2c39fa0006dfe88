"""Which rows a step takes, and these rows as model inputs on a device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from histofuse.training.augment import RegionImages, to_device
from histofuse.training.dataset import Split

SMALLEST_BATCH = 8  # a shorter last batch is left out: its risk sets say next to nothing
IMAGES_PER_PREDICTION = 64


class Batches:
    """Rows of a split as model inputs on a device: tables are held there, bags and regions where there is room."""

    def __init__(self, split: Split, device: torch.device):
        self.split = split
        self.device = device
        self.blocks = {name: torch.from_numpy(values).to(device) for name, values in split.blocks.items()}
        self.images = None
        if split.regions is not None:
            self.images = RegionImages(split.regions, split.rows["region"].to_numpy(), device)

    def start_epoch(self, seed: int, epoch: int) -> None:
        """Draw what the epoch's images are made with; before the first batch to train on."""
        if self.images is not None:
            self.images.draw(seed, epoch)

    def __call__(self, rows: np.ndarray, index: Tensor | None = None) -> dict[str, Tensor]:
        """What to train on: {block: [batch, feature]}, with the images of the split.

        With tiles "tiles": [batch, tile, width] and "tiles_count": [batch, tile]; with regions "regions": float32
        [batch, 3, px, px], the crop that was drawn of each. `index`: the rows, where they are on the device already.
        """
        index = to_device(rows, self.device) if index is None else index
        batch = {name: values[index] for name, values in self.blocks.items()}
        if self.split.tiles is not None:
            batch |= self._bags(rows)
        if self.images is not None:
            batch["regions"] = self.images.random_crops(rows, index)
        return batch

    @property
    def views(self) -> int:
        """How many images stand for a row when it is predicted."""
        return len(self.split.regions.corners) if self.images is not None else 1

    def to_predict(self, rows: np.ndarray, middle: bool = False) -> dict[str, Tensor]:
        """The same, with nothing drawn: each row `views` times in succession, once for each of its fixed crops.

        middle: each row once instead, as the middle one of its crops.
        """
        if self.images is None:
            return self(rows)
        index, views = to_device(rows, self.device), 1 if middle else self.views
        batch = {name: values[index.repeat_interleave(views)] for name, values in self.blocks.items()}
        return batch | {"regions": self.images.fixed_crops(rows, index, middle)}

    def _bags(self, rows: np.ndarray) -> dict[str, Tensor]:
        store, slides = self.split.tiles, self.split.rows["slide_id"].to_numpy()[rows]
        bags = [store.features(slide) for slide in slides]
        longest = max(map(len, bags))
        tiles = np.zeros((len(rows), longest, store.width), dtype=np.float32)
        count = np.zeros((len(rows), longest), dtype=np.float32)
        for k, (slide, features) in enumerate(zip(slides, bags, strict=True)):
            tiles[k, : len(features)] = features
            count[k, : len(features)] = store.count(slide)
        if self.split.tile_scale is not None:
            mean, sd = self.split.tile_scale
            tiles -= mean.astype(np.float32)
            tiles /= np.maximum(sd, 1e-6).astype(np.float32)
            tiles *= (count > 0)[:, :, None]
        return {
            "tiles": torch.from_numpy(tiles).to(self.device),
            "tiles_count": torch.from_numpy(count).to(self.device),
        }


def batches_of(
    rows: np.ndarray, size: int | str, seed: int, epoch: int, cases: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """An epoch's batches of these rows, in the order that (seed, epoch) draws: `size` rows each, or "full" for all.

    cases: the case of each of the rows, when a batch may hold a case only once. Batches are then of nearly equal
    size, at most `size`; of a case with more rows than there are batches, some wait for another epoch.
    """
    if size == "full" and cases is None:
        yield rows
        return
    rng = np.random.default_rng((seed, epoch))
    if cases is not None:
        yield from _with_each_case_once(rows, cases, len(rows) if size == "full" else size, rng)
        return
    shuffled = rng.permutation(rows)
    for start in range(0, len(shuffled), size):
        batch = shuffled[start : start + size]
        if start == 0 or len(batch) >= min(size, SMALLEST_BATCH):
            yield batch


def _with_each_case_once(rows: np.ndarray, cases: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal the rows of each case, the largest cases first, to the batches that hold the fewest rows."""
    order = rng.permutation(len(rows))
    _, case, count = np.unique(cases[order], return_inverse=True, return_counts=True)
    by_size = np.argsort(-count, kind="stable")
    of_case = np.split(rows[order][np.argsort(case, kind="stable")], np.cumsum(count)[:-1])
    batches: list[list[int]] = [[] for _ in range(-(-len(rows) // size))]
    for k in by_size:
        fewest = np.lexsort((rng.random(len(batches)), [len(batch) for batch in batches]))
        for row, batch in zip(of_case[k], fewest):  # of a case with more rows than batches, the last are left out
            batches[batch].append(row)
    return [rng.permutation(np.array(batch, dtype=rows.dtype)) for batch in batches if batch]

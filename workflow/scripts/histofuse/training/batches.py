"""Which rows a step takes, and these rows as model inputs on a device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from histofuse.training.augment import RegionImages, room_for, to_device
from histofuse.training.dataset import Split
from histofuse.training.tiles import TileStore

SMALLEST_BATCH = 8  # a shorter last batch is left out: its risk sets say next to nothing


class Batches:
    """Rows of a split as model inputs on a device: tables are held there, tiles and regions where there is room."""

    def __init__(self, split: Split, device: torch.device):
        self.split = split
        self.device = device
        self.blocks = {name: torch.from_numpy(values).to(device) for name, values in split.blocks.items()}
        slides = split.rows["slide_id"].tolist() if split.bags else []
        self.bags = {
            name: Bags(store, slides, split.bag_scales.get(name), device) for name, store in split.bags.items()
        }
        self.images = None
        if split.regions is not None:
            self.images = RegionImages(split.regions, split.rows["region"].to_numpy(), device)

    def start_epoch(self, seed: int, epoch: int) -> None:
        """Draw what the epoch's images are made with; before the first batch to train on."""
        if self.images is not None:
            self.images.draw(seed, epoch)

    def __call__(self, rows: np.ndarray, index: Tensor | None = None) -> dict[str, Tensor]:
        """What to train on: {block: [batch, feature]}, with the images of the split.

        With bags what `Bags` gives under their names; with regions "regions": float32 [batch, 3, px, px], the crop
        that was drawn of each. `index`: the rows, where they are on the device already.
        """
        index = to_device(rows, self.device) if index is None else index
        batch = {name: values[index] for name, values in self.blocks.items()}
        for name, bags in self.bags.items():
            batch |= {f"{name}{part}": values for part, values in bags(rows).items()}
        if self.images is not None:
            batch["regions"] = self.images.random_crops(rows, index)
        return batch

    @property
    def views(self) -> int:
        """How many images stand for a row when it is predicted."""
        return len(self.split.regions.corners) if self.images is not None else 1

    def to_predict(self, rows: np.ndarray, middle: bool = False) -> dict[str, Tensor]:
        """The same, with nothing drawn: each row `views` times in succession, once for each of its fixed crops.

        Blocks that are for training only are not there. middle: each row once, as the middle one of its crops.
        """
        if self.images is None:
            return {name: values for name, values in self(rows).items() if name not in self.split.training_only}
        index, views = to_device(rows, self.device), 1 if middle else self.views
        blocks = {name: values for name, values in self.blocks.items() if name not in self.split.training_only}
        batch = {name: values[index.repeat_interleave(views)] for name, values in blocks.items()}
        return batch | {"regions": self.images.fixed_crops(rows, index, middle)}


class Bags:
    """The bags of a split's rows on a device.

    The packed map is held on an accelerator where it has room, as float16; otherwise rows are read from the file's
    map as they are asked for. What a bag consists of is worked out once.

    Args: slides: of each row. scale: mean and standard deviation [width] that tiles are standardised by, or None.
    """

    def __init__(
        self,
        store: TileStore,
        slides: list[str],
        scale: tuple[np.ndarray, np.ndarray] | None,
        device: torch.device,
    ):
        self.device = device
        self.rows = [store.rows(slide) for slide in slides]
        self.count = [store.count(slide) for slide in slides]
        self.place = None if store.order is None else torch.from_numpy(np.stack([store.place(s) for s in slides]))
        self.tiles = torch.from_numpy(store.tiles)
        if device.type == "cuda" and room_for(self.tiles.nbytes, device):
            self.tiles = self.tiles.to(device)
        self.scale = None
        if scale is not None:
            mean, sd = (torch.from_numpy(values.astype(np.float32)).to(device) for values in scale)
            self.scale = mean, sd.clamp(min=1e-6)

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The bags of these rows, under what their name is followed by.

        "": float32 [batch, tile, width], the tiles of each bag once, then zeros. "_count": float32 [batch, tile], how
        often the bag holds each. With an order "_place": int64 [batch, bag], which of them stands where on the map.
        """
        bags = [self.rows[row] for row in rows]
        index = np.zeros((len(bags), max(map(len, bags))), dtype=np.int64)
        count = np.zeros(index.shape, dtype=np.float32)
        for k, (row, bag) in enumerate(zip(rows, bags, strict=True)):
            index[k, : len(bag)] = bag
            count[k, : len(bag)] = self.count[row]
        tiles = self.tiles[to_device(index, self.tiles.device)].to(self.device).float()
        given = {"_count": to_device(count, self.device)}
        if self.scale is not None:
            tiles = (tiles - self.scale[0]) / self.scale[1]
        tiles *= (given["_count"] > 0).unsqueeze(-1)
        if self.place is not None:
            given["_place"] = self.place[torch.from_numpy(rows)].to(self.device)
        return {"": tiles} | given


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

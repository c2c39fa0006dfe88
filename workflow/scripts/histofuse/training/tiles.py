"""Tile features of a cohort as a run reads them: a memory map, and which of its tiles make each slide's bag.

Needs numpy, pandas and pyarrow only; `histofuse.training.batches` makes model inputs of the bags.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.bags import repeat_index, spatial_index
from histofuse.io import InputError, read_table


class TileStore:
    """A cohort's packed tile features: a float16 memory map [tile, width] and where each slide's tiles lie.

    A slide's bag has a fixed size in the papers; tiles are stored once, and a model is given each tile of a bag once
    as well. Which these are is said by the repeat rule (`bags.repeat_index`): all of them where a slide has no more
    than `bag`, else an even stride. `count` says how often each stands in the bag. Without a `bag` all tiles are
    given, and count once. With an `order` the bag is a square map for models that read it as one: "raster" by the
    repeat rule, "spatial" so that neighbours in tissue are neighbours (`bags.spatial_index`), by the places of the
    tiles in `coords`, int32 [tile, 2]; `place` says which of the given tiles stands where.
    """

    def __init__(
        self,
        tiles: str | Path,
        index: str | Path,
        coords: str | Path | None = None,
        bag: int | None = None,
        order: str | None = None,
    ):
        self.index = read_table(index).set_index("slide_id")
        if self.index.empty:
            raise InputError(f"{index}: no slide has features; see the exclusions in slides.parquet beside it")
        self.width = int(self.index["dim"].iloc[0])
        rows = int(self.index["n_tiles"].sum())
        if Path(tiles).stat().st_size != rows * self.width * 2:
            raise InputError(
                f"{tiles}: does not hold the {rows} × {self.width} values that {index} says; pack it again"
            )
        if order is not None and bag is None:
            raise InputError(f"inputs: order: {order} needs the size of the map; give `bag`")
        # Copy on write: torch shares the pages without a warning, and the file cannot be changed by accident.
        self.tiles = np.memmap(tiles, dtype="<f2", mode="c", shape=(rows, self.width))
        self.bag, self.order = bag, order
        if order == "spatial":
            self.coords = np.memmap(coords, dtype="<i4", mode="r", shape=(rows, 2))
            if (self.coords < 0).any():
                raise InputError(f"{coords}: some tiles have no place (features made elsewhere); use order: raster")
        self._layout = lru_cache(maxsize=None)(self._lay_out)

    def slides_of(self, case_ids: list[str]) -> pd.DataFrame:
        """`slide_id, case_id` of these cases' slides, in the order of the index."""
        rows = self.index[self.index["case_id"].isin(case_ids)]
        return rows.reset_index()[["slide_id", "case_id"]]

    def given(self, slide_id: str) -> np.ndarray:
        """int64 [tile]: which of the slide's stored tiles a model is given, in ascending order."""
        return self._layout(slide_id)[0]

    def place(self, slide_id: str) -> np.ndarray:
        """int64 [bag]: which of the given tiles stands at each place of the map, row by row; needs an order."""
        return self._layout(slide_id)[1]

    def count(self, slide_id: str) -> np.ndarray:
        """float32 [tile]: how often each given tile stands in the bag of fixed size."""
        return self._layout(slide_id)[2]

    def rows(self, slide_id: str) -> np.ndarray:
        """int64 [tile]: the given tiles as rows of the whole map `tiles`."""
        return self.index.at[slide_id, "first_tile"] + self.given(slide_id)

    def features(self, slide_id: str) -> np.ndarray:
        """float16 [tile, width] of the given tiles."""
        return self.tiles[self.rows(slide_id)]

    def moments(self, slides: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [width] over these slides' stored tiles, in float64, read slide by slide."""
        total, squares, n = np.zeros(self.width), np.zeros(self.width), 0
        for row in self.index.loc[slides].itertuples():
            values = self.tiles[row.first_tile : row.first_tile + row.n_tiles].astype(np.float64)
            total += values.sum(0)
            squares += np.square(values).sum(0)
            n += len(values)
        mean = total / n
        return mean, np.sqrt(np.maximum(squares / n - mean**2, 0))

    def _lay_out(self, slide_id: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(given, place, count) of a slide."""
        first, n = self.index.loc[slide_id, ["first_tile", "n_tiles"]].astype(int)
        if self.bag is None:
            return np.arange(n), None, np.ones(n, dtype=np.float32)
        if self.order == "spatial":
            stored = spatial_index(self.coords[first : first + n], self.bag)
        else:
            stored = repeat_index(n, self.bag)
        given, place, count = np.unique(stored, return_inverse=True, return_counts=True)
        return given, None if self.order is None else place, count.astype(np.float32)

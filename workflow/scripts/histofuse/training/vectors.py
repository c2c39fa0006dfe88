"""Vectors that one run has made for another: of images for a fusion of their vectors, of a teacher for its student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, read_table

KEYS = ("case_id", "slide_id", "region", "crop")  # what a vector may stand for, from the case to a crop of a region


def vectors_table(rows: pd.DataFrame, views: int, vectors: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per row of a split and view of it, with its vectors.

    Args:
        rows: of the split. views: images that stand for a row when it is predicted (fixed crops of a region).
        vectors: {name: float [row · view, width]}, all views of the first row, then of the second, ….
    Returns: the keys that the rows have, `crop` where there are several views, and a column of float32 lists per name.
    """
    table = rows[[key for key in KEYS if key in rows]].loc[rows.index.repeat(views)].reset_index(drop=True)
    if views > 1:
        table["crop"] = np.tile(np.arange(views), len(rows))
    return table.assign(**{name: list(np.asarray(values, dtype=np.float32)) for name, values in vectors.items()})


class RunVectors:
    """Vectors of a run, as `vectors_table` lays them out.

    Args: path: their table. names: of the vectors that are wanted.
    Raises InputError when the table lacks one of them.
    """

    def __init__(self, path: str | Path, names: list[str]):
        self.table, self.path = read_table(path), path
        self.keys = [key for key in KEYS if key in self.table]
        there = [name for name in self.table if name not in KEYS]
        if missing := [name for name in names if name not in there]:
            raise InputError(
                f"inputs: vectors: {missing[0]}: the run's model makes no such vectors; there are {', '.join(there)}"
            )
        self.names = names

    def rows_of(self, case_ids: list[str]) -> pd.DataFrame:
        """The keys of these cases' vectors, in the order of the table: a row to train on for each."""
        return self.table.loc[self.table["case_id"].isin(case_ids), self.keys].reset_index(drop=True)

    def blocks(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """{name: float32 [row, width]} for rows of a split.

        Raises InputError when the rows are not what the vectors stand for, or one has no vector.
        """
        if absent := [key for key in self.keys if key not in rows]:
            raise InputError(
                f"{self.path}: its vectors stand for a {absent[-1]} each, the rows of this model do not; take vectors "
                "of a run that reads the same kind of images"
            )
        found = rows[self.keys].merge(self.table, on=self.keys, how="left", validate="many_to_one")
        if (missing := found[self.names[0]].isna()).any():
            row = found.loc[missing, self.keys].iloc[0]
            raise InputError(f"{self.path}: no vector for {', '.join(f'{key} {row[key]}' for key in self.keys)}")
        return {name: np.stack(found[name].to_numpy()) for name in self.names}

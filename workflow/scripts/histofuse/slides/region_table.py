"""Where somebody has placed regions on slides: a table of the user's own, or the supplement of the SCNN paper.

The latter (Mobadersany et al., PNAS 115, E2970 (2018), Table S2: 1,505 regions on 1,061 slides of 769 patients) has a
row per slide, `Slide`, `(X,Y) region`, `Sizes`, with as many pairs of numbers in brackets as there are regions, in
pixels of full resolution. Its sizes, all (1024, 1024), are pixels at 20x, which the configuration says; they are not
read. It is an Excel file, to be saved as .csv.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, read_table
from histofuse.slides.naming import slide_name

COLUMNS = ["slide_id", "x", "y", "side"]
SUPPLEMENT = ["Slide", "(X,Y) region"]
_PAIR = re.compile(r"\(\s*([^\s,()]+)\s*,\s*([^\s,()]+)\s*\)")


def read_regions(path: str | Path) -> pd.DataFrame:
    """The regions of a table, in its order: `slide_id, x, y, side`.

    `path` is a .csv or .tsv with the columns `slide_id` (or the slide's file name), `x` and `y` (the upper left
    corner) and, where wanted, `side`, all in pixels of full resolution; fractions are rounded. `side` is 0 where the
    table does not give it. Raises InputError naming the row (1 = first below the header).
    """
    path = Path(path)
    if path.suffix.lower() not in {".csv", ".tsv"}:
        raise InputError(f"{path}: a table of regions is a .csv or .tsv file; save the sheet of a workbook as .csv")
    if not path.is_file():
        raise InputError(f"{path}: there is no such table of regions")
    table = read_table(path, dtype=str, keep_default_na=False)
    if set(SUPPLEMENT) <= set(table):
        table = _unfold(table, path)
    if missing := [column for column in COLUMNS[:3] if column not in table]:
        raise InputError(
            f"{path}: the column(s) {', '.join(missing)} are missing; a table of regions has slide_id, x, y and, "
            f"where wanted, side (or {' and '.join(SUPPLEMENT)}, as the supplement of SCNN)"
        )
    out = pd.DataFrame({"slide_id": table["slide_id"].map(slide_name)})
    for column, least in (("x", 0), ("y", 0), ("side", 1)):
        out[column] = _pixels(table, column, least, path) if column in table else 0
    if (unnamed := out["slide_id"] == "").any():
        raise InputError(f"{path}, {_row(table, unnamed)}: the region has no slide_id")
    if (twice := out.duplicated(COLUMNS[:3])).any():
        raise InputError(f"{path}, {_row(table, twice)}: this region is there twice")
    if (out.groupby("slide_id")["side"].nunique() > 1).any():
        odd = out["side"] != out.groupby("slide_id")["side"].transform("first")
        raise InputError(f"{path}, {_row(table, odd)}: the regions of a slide have different sides; give them one")
    return out


def _unfold(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One row per region of the supplement's table; the index stays the row of the file."""
    pairs = table[SUPPLEMENT[1]].map(_PAIR.findall)
    if (none := pairs.map(len) != table[SUPPLEMENT[1]].str.count(r"\(")).any() or (none := pairs.map(len) == 0).any():
        raise InputError(f"{path}, {_row(table, none)}: {SUPPLEMENT[1]} must be pairs as in '(26560.1, 22411.1)'")
    long = pd.DataFrame({"slide_id": table[SUPPLEMENT[0]], "pair": pairs}).explode("pair")
    return long.assign(x=long["pair"].str[0], y=long["pair"].str[1])


def _pixels(table: pd.DataFrame, column: str, least: int, path: Path) -> np.ndarray:
    numbers = pd.to_numeric(table[column], errors="coerce")
    bad = ~np.isfinite(numbers) | (numbers < least)
    if bad.any():
        value = table.loc[bad, column].iloc[0]
        raise InputError(f"{path}, {_row(table, bad)}: {column} is {value!r}; expected pixels, at least {least}")
    return np.rint(numbers).astype(np.int64).to_numpy()


def _row(table: pd.DataFrame, where: pd.Series) -> str:
    """The first of the rows `where`, as the user counts them."""
    return f"row {table.index[where.to_numpy()][0] + 1}"

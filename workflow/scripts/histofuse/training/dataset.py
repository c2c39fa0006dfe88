"""One split of one task as arrays: targets, tabular blocks, bags of tiles or regions, all fitted on the training part.

Needs numpy, pandas and pyarrow only, so that it also runs where nothing but a GPU image is at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.bags import repeat_index, spatial_index
from histofuse.io import InputError, read_table
from histofuse.training.regions import RegionStore
from histofuse.training.scaling import BlockScaler

# What of the case table a model may read: everything else there is outcome, origin or bookkeeping.
CLINICAL = ("age", "sex", "diagnosis", "grade", "idh", "codel_1p19q")
# Options of a block that say which table it reads and which columns of it; the others are those of `BlockScaler`.
_TABLE_OPTIONS = {"from", "selection", "group", "embedding", "smoothing"}
# Inputs that are images of some kind, not tables; a model takes one of them at most.
IMAGES = ("tiles", "regions")


@dataclass(frozen=True)
class Target:
    """What is to be predicted, one entry per row (a case, or a slide or region with its case's outcome).

    kind: "survival" or "classification"; time: float64 days; event: int64, 1 = died; label: int64 class index
    (classification); classes: how many. Fields that the kind does not use are empty arrays or 0.
    """

    kind: str
    time: np.ndarray
    event: np.ndarray
    label: np.ndarray
    classes: int = 0

    def take(self, rows: np.ndarray) -> Target:
        return Target(
            self.kind,
            *(values[rows] if len(values) else values for values in (self.time, self.event, self.label)),
            classes=self.classes,
        )


class TileStore:
    """A cohort's packed tile features: a float16 memory map [tile, width] and where each slide's tiles lie.

    A slide's bag has a fixed size in the papers; tiles are stored once. Without an `order` a model is given each tile
    once, and `count` says how often the repeat rule would put it into a bag of `bag` tiles (all ones when `bag` is
    None). With one the bag is laid out in full, copies included, for models that read it as a square map, row by row:
    "raster" by the repeat rule, "spatial" so that neighbours in tissue are neighbours (`bags.spatial_index`), by the
    places of the tiles in `coords`, int32 [tile, 2].
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
        self.tiles = np.memmap(tiles, dtype="<f2", mode="r", shape=(rows, self.width))
        self.bag, self.order = bag, order
        if order == "spatial":
            self.coords = np.memmap(coords, dtype="<i4", mode="r", shape=(rows, 2))
            if (self.coords < 0).any():
                raise InputError(f"{coords}: some tiles have no place (features made elsewhere); use order: raster")

    def slides_of(self, case_ids: list[str]) -> pd.DataFrame:
        """`slide_id, case_id` of these cases' slides, in the order of the index."""
        rows = self.index[self.index["case_id"].isin(case_ids)]
        return rows.reset_index()[["slide_id", "case_id"]]

    def places(self, slide_id: str) -> np.ndarray:
        """int64 [place]: which of the slide's stored tiles `features` gives at each place."""
        row = self.index.loc[slide_id]
        if self.order == "raster":
            return repeat_index(row.n_tiles, self.bag)
        if self.order == "spatial":
            return spatial_index(self.coords[row.first_tile : row.first_tile + row.n_tiles], self.bag)
        return np.arange(row.n_tiles)

    def features(self, slide_id: str) -> np.ndarray:
        """float16 [place, width]; without an order a view of the map."""
        row = self.index.loc[slide_id]
        stored = self.tiles[row.first_tile : row.first_tile + row.n_tiles]
        return stored if self.order is None else stored[self.places(slide_id)]

    def count(self, slide_id: str) -> np.ndarray:
        """float32 [place]: how often each stands in a bag of fixed size (floor(bag/n), one more for the first)."""
        n = int(self.index.loc[slide_id, "n_tiles"])
        if self.order is not None:
            return np.ones(self.bag, dtype=np.float32)
        if self.bag is None or n >= self.bag:
            return np.ones(n, dtype=np.float32)
        count = np.full(n, self.bag // n, dtype=np.float32)
        count[: self.bag % n] += 1
        return count

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


@dataclass
class Split:
    """Everything that one run reads.

    Attributes:
        rows: frame with one row per training unit: `case_id, part`, with tiles `slide_id`, with regions `slide_id` and
            `region`. A case with several slides or regions has several rows; predictions are averaged per case.
        target: one entry per row. blocks: {name: float32 [row, feature]}. tiles, regions: the store, when the model
            takes it.
        tile_scale: mean and standard deviation [width] of the training tiles, when they are to be standardised.
        scalers: {block: fitted scaler}, kept with the weights.
    """

    rows: pd.DataFrame
    target: Target
    blocks: dict[str, np.ndarray]
    tiles: TileStore | None = None
    tile_scale: tuple[np.ndarray, np.ndarray] | None = None
    scalers: dict[str, BlockScaler] = field(default_factory=dict)
    regions: RegionStore | None = None

    def part(self, name: str) -> np.ndarray:
        """Row numbers of "train", "val" or "test"."""
        return np.flatnonzero(self.rows["part"] == name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What a model is built for: {block: (features,)}, and {"tiles": (width,)} or {"regions": (3, px, px)}."""
        images = {"tiles": (self.tiles.width,)} if self.tiles else {}
        if self.regions:
            images = {"regions": (3, self.regions.input_px, self.regions.input_px)}
        return images | {name: (values.shape[1],) for name, values in self.blocks.items()}


def read_columns(path: str | Path) -> list[str]:
    """The names in a text file with one column per line; blank lines and what follows a # are passed over.

    Raises InputError when the file cannot be read, holds no name or holds one twice.
    """
    options = {"header": None, "names": ["column"], "index_col": False, "comment": "#", "encoding": "utf-8-sig"}
    table = read_table(path, dtype=str, keep_default_na=False, **options)
    names = [name for name in table["column"].str.strip() if name]
    if not names:
        raise InputError(f"{path}: there is no column in it; write one per line")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: {twice[0]} is there twice")
    return names


def read_split(files: Mapping[str, str | Path], number: int, task: dict, inputs: dict[str, dict]) -> Split:
    """Assemble one split from the files of a run.

    Args:
        files: `population`, `splits`, a table under the name of each tabular block and, where the inputs ask for them,
            `selection_{name}`, `groups`, `cases` (their column source), `tiles` and `index`, `regions` and
            `region_index`.
        number: of the split; task, inputs: as for `load_split`, but the `columns` of a block may be a text file.
    """
    blocks = {name: dict(options) for name, options in inputs.items() if name not in IMAGES}
    for options in blocks.values():
        if isinstance(options.get("columns"), str):
            options["columns"] = read_columns(options["columns"])
    selections = {options["selection"] for options in blocks.values() if "selection" in options}
    groups = sources = tiles = regions = None
    if any("group" in options for options in blocks.values()):
        groups = read_table(files["groups"], dtype=str, keep_default_na=False)
    if any(options.get("per_source") for options in blocks.values()):
        sources = read_table(files["cases"], columns=["case_id", "source"]).set_index("case_id")["source"]
    if "tiles" in inputs:
        tiles = TileStore(
            files["tiles"], files["index"], files["coords"], inputs["tiles"].get("bag"), inputs["tiles"].get("order")
        )
    if "regions" in inputs:
        options = {name: value for name, value in inputs["regions"].items() if name != "regions"}
        regions = RegionStore(files["regions"], files["region_index"], **options)
    return load_split(
        read_table(files["population"]),
        read_table(files["splits"]),
        number,
        task,
        {name: blocks.get(name, options) for name, options in inputs.items()},
        {name: read_table(files[name]) for name in blocks},
        tiles,
        selections={
            name: read_table(files[f"selection_{name}"], filters=[("split", "==", number)]) for name in selections
        },
        groups=groups,
        sources=sources,
        regions=regions,
    )


def load_split(
    population: pd.DataFrame,
    splits: pd.DataFrame,
    split: int,
    task: dict,
    inputs: dict[str, dict],
    tables: dict[str, pd.DataFrame],
    tiles: TileStore | None = None,
    *,
    selections: dict[str, pd.DataFrame] | None = None,
    groups: pd.DataFrame | None = None,
    sources: pd.Series | None = None,
    regions: RegionStore | None = None,
) -> Split:
    """Assemble one split.

    Args:
        population: `case_id, time_days, event, label`, the task's cases.
        splits: `split, case_id, part` of the protocol.
        task: its config entry (`kind`, `classes`).
        inputs: of the model entry: {block: options}: those of tiles, those of `RegionStore`, or of `BlockScaler` with
            `from` (which table it is; by default the block's own name), `selection` (columns of the genes that it
            selected for this split) and `group` (columns of the genes of these groups). `embedding` and `smoothing`
            say which table is given and change nothing here.
        tables: {block: frame with case_id}, one per tabular block in `inputs`.
        selections: {name: frame `split, gene, selected`}, those that the blocks name.
        groups: `gene, group`, when a block names groups.
        sources: source cohort by case_id, when a block is scaled per source.
        tiles, regions: the store, when the inputs name it.
    Raises InputError when a part is empty, holds no event (survival), a case lacks an input, a block is left without a
    column or both tiles and regions are asked for.
    """
    parts = splits.loc[splits["split"] == split, ["case_id", "part"]]
    cases = population.merge(parts, on="case_id", validate="one_to_one").sort_values("case_id", ignore_index=True)
    _check_parts(cases, split, task["kind"])
    rows = cases
    if tiles is not None and regions is not None:
        raise InputError("inputs: a row is a slide's bag of tiles or one region, not both; take tiles or regions out")
    if tiles is not None:
        rows = cases.merge(tiles.slides_of(cases["case_id"].tolist()), on="case_id")
        _check_present(cases, rows["case_id"], "tiles")
    if regions is not None:
        rows = cases.merge(regions.regions_of(cases["case_id"].tolist()), on="case_id")
        _check_present(cases, rows["case_id"], "regions")
    train_cases = cases.loc[cases["part"] == "train", "case_id"]
    blocks, scalers = {}, {}
    for name, options in inputs.items():
        if name in IMAGES:
            continue
        table = tables[name].set_index("case_id")
        if options.get("from", name) == "clinical":
            table = table[[column for column in CLINICAL if column in table]]
        _check_present(cases, table.index, name)
        if options.get("min_frequency") and 2 * len(train_cases) < len(table):
            print(
                f"split {split}: {name}: {len(train_cases)} training cases are less than half of the {len(table)} "
                "cases whose alterations decided what the table holds: a frequent one may be missing. Lower the "
                "cohort's `genomics: min_frequency`"
            )
        table, scaling = _narrow(table, name, options, split, selections or {}, groups)
        try:
            scalers[name] = BlockScaler(**scaling).fit(table.loc[train_cases], sources)
        except InputError as error:
            raise InputError(f"inputs: {name}: {error}") from error
        blocks[name] = scalers[name].apply(table.loc[rows["case_id"]], sources)
    scale = None
    if tiles is not None and inputs["tiles"].get("standardise", False):
        scale = tiles.moments(rows.loc[rows["part"] == "train", "slide_id"].tolist())
    classification = task["kind"] == "classification"
    target = Target(
        kind=task["kind"],
        time=rows["time_days"].to_numpy(np.float64, na_value=np.nan),
        event=rows["event"].fillna(0).to_numpy(np.int64),
        label=rows["label"].to_numpy(np.int64) if classification else np.zeros(0, np.int64),
        classes=len(task["classes"]) if classification else 0,
    )
    return Split(rows.drop(columns=["time_days", "event", "label"]), target, blocks, tiles, scale, scalers, regions)


def _narrow(
    table: pd.DataFrame,
    name: str,
    options: dict,
    split: int,
    selections: dict[str, pd.DataFrame],
    groups: pd.DataFrame | None,
) -> tuple[pd.DataFrame, dict]:
    """The columns of a block's genes, in the table's order, and what its scaler is told."""
    scaling = {key: value for key, value in options.items() if key not in _TABLE_OPTIONS}
    if not {"selection", "group"} & set(options):
        return table, scaling
    genes = table.columns.astype(str).str.replace(r"_(mut|cnv)$", "", regex=True)  # of alterations; others have none
    kept, left = np.ones(len(genes), dtype=bool), [f"the table has {len(genes)} columns"]
    if selection := options.get("selection"):
        chosen = selections[selection].query("split == @split and selected")["gene"]
        kept &= genes.isin(chosen)
        left.append(f"{kept.sum()} of them are of selection {selection}")
    if group := options.get("group"):
        if groups is None:
            raise InputError(f"inputs: {name}: group: the gene groups of the cohort are not there")
        known = sorted(groups["group"].unique())
        absent = sorted(set(group) - set(known))
        if len(absent) == len(set(group)):
            raise InputError(f"inputs: {name}: group: no group {', '.join(absent)}; there are {', '.join(known)}")
        if absent:  # of a cohort that has few genes; a name that no list has is refused with the configuration
            print(f"inputs: {name}: the cohort has no gene of group {', '.join(absent)}")
        kept &= genes.isin(groups.loc[groups["group"].isin(group), "gene"])
        left.append(f"{kept.sum()} {'of these ' if selection else ''}are of group {', '.join(group)}")
    if not kept.any():
        raise InputError(f"inputs: {name}: no column is left in split {split}: {', '.join(left)}")
    if columns := options.get("columns"):
        known, kept_names = set(table.columns), set(table.columns[kept])
        scaling["columns"] = [column for column in columns if column in kept_names or column not in known]
    return table.loc[:, kept], scaling


def _check_parts(cases: pd.DataFrame, split: int, kind: str) -> None:
    for part in ("train", "test"):
        of_part = cases[cases["part"] == part]
        if of_part.empty:
            raise InputError(f"split {split}: no case of the task in part {part!r}; check the splits file and the task")
    train = cases[cases["part"] == "train"]
    if kind == "survival" and not train["event"].any():
        raise InputError(f"split {split}: all {len(train)} training cases are censored; a survival model needs deaths")
    if kind == "classification" and train["label"].nunique() < 2:
        raise InputError(f"split {split}: all training cases have one class; a classifier needs two")


def _check_present(cases: pd.DataFrame, have: pd.Index, block: str) -> None:
    missing = cases.loc[~cases["case_id"].isin(have), "case_id"]
    if len(missing):
        raise InputError(
            f"{len(missing)} cases of the task have no {block} (e.g. {missing.iloc[0]}). "
            f"List {block} under the task's `modalities`, so that such cases are set aside for every model alike"
        )

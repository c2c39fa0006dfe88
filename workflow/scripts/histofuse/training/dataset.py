"""One split of one task as arrays: targets, tabular blocks, bags of tiles or regions, all fitted on the training part.

Needs numpy, pandas and pyarrow only, so that it also runs where nothing but a GPU image is at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.bags import is_bag
from histofuse.io import InputError, read_table
from histofuse.training.regions import RegionStore
from histofuse.training.scaling import BlockScaler
from histofuse.training.tiles import TileStore
from histofuse.training.vectors import RunVectors

# What of the case table a model may read: everything else there is outcome, origin or bookkeeping.
CLINICAL = ("age", "sex", "diagnosis", "grade", "idh", "codel_1p19q")
# What of it tells a class that is to be predicted, beside the class itself: the WHO 2021 diagnosis is made of IDH,
# 1p/19q and grade, and gives them away in turn. The configuration is checked by this table, too.
TELLING = {
    "diagnosis": ("idh", "codel_1p19q", "grade"),
    "grade": ("diagnosis",),
    "idh": ("diagnosis",),
    "codel_1p19q": ("diagnosis",),
}
# Options of a block that say which table it reads and which columns of it; the others are those of `BlockScaler`.
_TABLE_OPTIONS = {"from", "selection", "group", "embedding", "smoothing", "shuffled"}


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


@dataclass
class Split:
    """Everything that one run reads.

    Attributes:
        rows: frame with one row per training unit: `case_id, part`, with tiles `slide_id`, with regions `slide_id` and
            `region`. A case with several slides or regions has several rows; predictions are averaged per case.
        target: one entry per row. blocks: {name: float32 [row, feature]}. bags: {name: store of tile features};
            regions: the store, when the model takes regions.
        bag_scales: {name: mean and standard deviation [width] of the training tiles}, of bags to be standardised.
        scalers: {block: fitted scaler}, kept with the weights. training_only: names of blocks that a model is given
            in training alone.
    """

    rows: pd.DataFrame
    target: Target
    blocks: dict[str, np.ndarray]
    bags: dict[str, TileStore] = field(default_factory=dict)
    bag_scales: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    scalers: dict[str, BlockScaler] = field(default_factory=dict)
    regions: RegionStore | None = None
    training_only: frozenset[str] = frozenset()

    def part(self, name: str) -> np.ndarray:
        """Row numbers of "train", "val" or "test"."""
        return np.flatnonzero(self.rows["part"] == name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What a model is built for: {block: (features,)}, {bag: (width,)} or {"regions": (3, px, px)}."""
        images = {name: (store.width,) for name, store in self.bags.items()}
        if self.regions:
            images["regions"] = (3, self.regions.input_px, self.regions.input_px)
        blocks = {name: values for name, values in self.blocks.items() if name not in self.training_only}
        return images | {name: (values.shape[1],) for name, values in blocks.items()}


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
        files: `population`, `splits`, a table under the name of each tabular block, the vectors under that of each
            input with `run` and, where the inputs ask for them, `selection_{name}`, `groups`, `cases` (their column
            source), `{bag}`, `{bag}_index` and `{bag}_coords` of a bag of tiles, `regions` and `region_index`.
        number: of the split; task, inputs: as for `load_split`, but the `columns` of a block may be a text file.
    """
    blocks = {name: dict(options) for name, options in inputs.items() if is_table(name, options)}
    for options in blocks.values():
        if isinstance(options.get("columns"), str):
            options["columns"] = read_columns(options["columns"])
    selections = {options["selection"] for options in blocks.values() if "selection" in options}
    groups = sources = None
    if any("group" in options for options in blocks.values()):
        groups = read_table(files["groups"], dtype=str, keep_default_na=False)
    if any(options.get("per_source") for options in blocks.values()):
        sources = read_table(files["cases"], columns=["case_id", "source"]).set_index("case_id")["source"]
    bags, regions = read_images(files, inputs)
    return load_split(
        read_table(files["population"]),
        read_table(files["splits"]),
        number,
        task,
        {name: blocks.get(name, options) for name, options in inputs.items()},
        {name: read_table(files[name]) for name in blocks},
        bags=bags,
        selections={
            name: read_table(files[f"selection_{name}"], filters=[("split", "==", number)]) for name in selections
        },
        groups=groups,
        sources=sources,
        regions=regions,
        vectors={
            name: RunVectors(files[name], options["vectors"]) for name, options in inputs.items() if "run" in options
        },
    )


def read_images(
    files: Mapping[str, str | Path], inputs: dict[str, dict]
) -> tuple[dict[str, TileStore], RegionStore | None]:
    """The stores of a run's bags of tiles and of its regions, from files named as for `read_split`."""
    bags = {
        name: TileStore(
            *(files[f"{name}{part}"] for part in ("", "_index", "_coords")), options.get("bag"), options.get("order")
        )
        for name, options in inputs.items()
        if is_bag(name)
    }
    if "regions" not in inputs:
        return bags, None
    options = {name: value for name, value in inputs["regions"].items() if name != "regions"}
    return bags, RegionStore(files["regions"], files["region_index"], **options)


def load_split(
    population: pd.DataFrame,
    splits: pd.DataFrame,
    split: int,
    task: dict,
    inputs: dict[str, dict],
    tables: dict[str, pd.DataFrame],
    *,
    bags: dict[str, TileStore] | None = None,
    selections: dict[str, pd.DataFrame] | None = None,
    groups: pd.DataFrame | None = None,
    sources: pd.Series | None = None,
    regions: RegionStore | None = None,
    vectors: dict[str, RunVectors] | None = None,
) -> Split:
    """Assemble one split.

    Args:
        population: `case_id, time_days, event, label`, the task's cases.
        splits: `split, case_id, part` of the protocol, or its inner ones, of which none is "test".
        task: its config entry (`kind`, `classes`, `column`).
        inputs: of the model entry: {block: options}: those of tiles, of vectors, of `RegionStore`, or of `BlockScaler`
            with `from` (which table it is; by default the block's own name), `selection` (columns of the genes that
            it selected for this split) and `group` (columns of the genes of these groups). `embedding` and `smoothing`
            say which table is given and change nothing here. `shuffled`: each case gets what belongs to another case
            of its part; all shuffled inputs of a run get that of the same one.
        tables: {block: frame with case_id}, one per tabular block in `inputs`.
        bags: {bag: store}; a row is a slide that all of them have.
        selections: {name: frame `split, gene, selected`}, those that the blocks name.
        groups: `gene, group`, when a block names groups.
        sources: source cohort by case_id, when a block is scaled per source.
        regions: the store, when the inputs name it. vectors: {input: vectors of another run}, unscaled; they make the
            rows where there are neither tiles nor regions.
    Raises InputError when a part is empty, holds no event (survival), a case lacks an input, a block is left without a
    column or has one that tells the class to predict, or both tiles and regions are asked for.
    """
    bags, vectors = bags or {}, vectors or {}
    parts = splits.loc[splits["split"] == split, ["case_id", "part"]]
    cases = population.merge(parts, on="case_id", validate="one_to_one").sort_values("case_id", ignore_index=True)
    _check_parts(cases, split, task["kind"], "test" if (parts["part"] == "test").any() else "val")
    giver = _shuffled(cases, split)
    rows = rows_of(cases, inputs, bags, regions, vectors, giver)
    train_cases = cases.loc[cases["part"] == "train", "case_id"]
    blocks, scalers = {}, {}
    for name, options in inputs.items():
        if not is_table(name, options):
            continue
        source = options.get("from", name)
        table = columns_of(tables[name], source)
        if source == "clinical":
            _check_no_label(name, options.get("columns", table.columns), task)
        check_present(cases, table.index, name)
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
        given = rows["case_id"].map(giver) if options.get("shuffled") else rows["case_id"]
        blocks[name] = scalers[name].apply(table.loc[given], sources)
    only = set()
    for name, of_run in vectors.items():
        made = {f"{name}.{vector}": values for vector, values in of_run.blocks(rows).items()}
        blocks |= made
        only |= set(made) if inputs[name].get("training_only") else set()
    train_slides = rows.loc[rows["part"] == "train", "slide_id"].tolist() if bags else []
    scales = {name: store.moments(train_slides) for name, store in bags.items() if inputs[name].get("standardise")}
    about, target = target_of(rows, task)
    return Split(about, target, blocks, bags, scales, scalers, regions, frozenset(only))


def columns_of(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """What of a table a block may read, by case: of the case table nothing but `CLINICAL`, or the source alone."""
    table = table.set_index("case_id")
    if source == "clinical":
        return table[[column for column in CLINICAL if column in table]]
    return table[["source"]] if source == "source" else table


def target_of(rows: pd.DataFrame, task: dict) -> tuple[pd.DataFrame, Target]:
    """What rows tell of themselves, and what is to be predicted of them."""
    classification = task["kind"] == "classification"
    target = Target(
        kind=task["kind"],
        time=rows["time_days"].to_numpy(np.float64, na_value=np.nan),
        event=rows["event"].fillna(0).to_numpy(np.int64),
        label=rows["label"].to_numpy(np.int64) if classification else np.zeros(0, np.int64),
        classes=len(task["classes"]) if classification else 0,
    )
    return rows.drop(columns=["time_days", "event", "label"]), target


def is_table(name: str, options: dict) -> bool:
    """Whether an input is a block of columns of a table."""
    return not is_bag(name) and name != "regions" and "run" not in options


def _shuffled(cases: pd.DataFrame, split: int) -> dict[str, str]:
    """{case: another case of its part}, drawn by the split's number; never itself where the part has two."""
    rng, giver = np.random.default_rng(split), {}
    for _, of_part in cases.groupby("part")["case_id"]:
        order = rng.permutation(of_part.to_numpy())
        giver |= dict(zip(order, np.roll(order, 1)))
    return giver


def rows_of(
    cases: pd.DataFrame,
    inputs: dict[str, dict],
    bags: dict[str, TileStore],
    regions: RegionStore | None,
    vectors: dict[str, RunVectors],
    giver: dict[str, str],
) -> pd.DataFrame:
    """The rows of cases `case_id, part, …`: a case, or each of its slides, regions or vectors.

    giver: whose slides or regions a case gets where an input is shuffled.
    Raises InputError for a case without any, and where both tiles and regions are asked for.
    """
    ids = cases["case_id"].tolist()
    if bags and regions is not None:
        raise InputError("inputs: a row is a slide's bag of tiles or one region, not both; take tiles or regions out")
    if bags:
        first, *others = bags.values()
        slides = first.slides_of(ids)
        slides = slides[slides["slide_id"].isin(set(slides["slide_id"]).intersection(*(o.index.index for o in others)))]
        what, units = " and ".join(bags), slides
    elif regions is not None:
        what, units = "regions", regions.regions_of(ids)
    elif makers := [name for name in vectors if not inputs[name].get("training_only")]:
        what, units = makers[0], vectors[makers[0]].rows_of(ids)
    else:
        return cases
    if any(options.get("shuffled") for name, options in inputs.items() if is_bag(name) or name == "regions"):
        taker = {of: case for case, of in giver.items()}
        units = units.assign(case_id=units["case_id"].map(taker))
    rows = cases.merge(units, on="case_id")
    check_present(cases, rows["case_id"], what)
    return rows


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


def _check_no_label(block: str, columns: Iterable[str], task: dict) -> None:
    """Raise InputError where a block of the case table has a column that is, or tells, the class to predict."""
    predicted = task.get("column") if task["kind"] == "classification" else None
    for column in columns:
        if column == predicted or column in TELLING.get(predicted, ()):
            what = "is" if column == predicted else f"tells {predicted}, which is"
            raise InputError(f"inputs: {block}: columns: {column} {what} what the task predicts; list others")


def _check_parts(cases: pd.DataFrame, split: int, kind: str, scored: str) -> None:
    for part in ("train", scored):
        of_part = cases[cases["part"] == part]
        if of_part.empty:
            raise InputError(f"split {split}: no case of the task in part {part!r}; check the splits file and the task")
    train = cases[cases["part"] == "train"]
    if kind == "survival" and not train["event"].any():
        raise InputError(f"split {split}: all {len(train)} training cases are censored; a survival model needs deaths")
    if kind == "classification" and train["label"].nunique() < 2:
        raise InputError(f"split {split}: all training cases have one class; a classifier needs two")


def check_present(cases: pd.DataFrame, have: pd.Index, block: str) -> None:
    """Raise InputError where a case is not among those that `have` a block."""
    missing = cases.loc[~cases["case_id"].isin(have), "case_id"]
    if len(missing):
        raise InputError(
            f"{len(missing)} cases of the task have no {block} (e.g. {missing.iloc[0]}). "
            f"List {block} under the task's `modalities`, so that such cases are set aside for every model alike"
        )

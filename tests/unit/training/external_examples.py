"""A cohort on disk as a run reads it, and another one in the same layout: tables, tiles at two magnifications."""

from pathlib import Path

import numpy as np
import pandas as pd
from tile_examples import tile_store

from histofuse.training.dataset import read_split

TASK = {"kind": "survival"}
GENES = [f"G{k}" for k in range(40)]


def write_cohort(folder: Path, name: str, cases: int, seed: int) -> dict[str, str]:
    """Files of a cohort whose cases are `name`0, `name`1, …, every third with two slides; all but the splits."""
    rng = np.random.default_rng(seed)
    folder = folder / name
    folder.mkdir()
    ids = [f"{name}{k:02d}" for k in range(cases)]
    genes = pd.DataFrame(rng.normal(3, 2, (cases, len(GENES))), columns=GENES)
    risk = (genes["G0"] - 3) / 2
    time = rng.exponential(500 * np.exp(-risk)).round() + 1
    event = rng.integers(0, 4, cases) > 0
    population = pd.DataFrame({"case_id": ids, "time_days": time, "event": event.astype("int8"), "label": pd.NA})
    population["label"] = population["label"].astype("Int64")
    clinical = {"age": rng.normal(55, 9, cases), "sex": rng.choice(["female", "male"], cases), "source": name}
    tables = {
        "population": population,
        "expression": pd.DataFrame({"case_id": ids, **genes}),
        "clinical": pd.DataFrame({"case_id": ids, **clinical}),
    }
    files = {}
    for table, frame in tables.items():
        files[table] = str(folder / f"{table}.parquet")
        frame.to_parquet(files[table])
    slides = {f"{case}-{k}": case for n, case in enumerate(ids) for k in range(1 + (n % 3 == 0))}
    for bag in ("tiles", "tiles_10x"):
        features = {slide: rng.normal(size=(rng.integers(4, 12), 6)) for slide in slides}
        tile_store(folder, features, cases=slides, name=bag)
        files |= {bag: str(folder / f"{bag}.f16"), f"{bag}_index": str(folder / f"{bag}.parquet")}
        files[f"{bag}_coords"] = str(folder / f"{bag}.i32")
    return files


def write_splits(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """The files with one split, number 0, in which every fourth case is a test case."""
    ids = pd.read_parquet(files["population"])["case_id"]
    parts = np.where(np.arange(len(ids)) % 4 == 3, "test", "train")
    path = folder / "splits.parquet"
    pd.DataFrame({"split": 0, "case_id": ids, "part": parts}).to_parquet(path)
    return files | {"splits": str(path)}


def split_of(files: dict[str, str], inputs: dict, task: dict = TASK):
    return read_split(files, 0, task, inputs)

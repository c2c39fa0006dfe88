"""Published TCGA tables in the layout of PORPOISE (Chen et al., Cancer Cell 2022): survival and genomics.

A zipped CSV holds one row per slide: `case_id, slide_id, age, survival_months, censorship, is_female` (some
cancers lack it or parts of it), `oncotree_code` (absent where a cancer has only one), then `<gene>_rnaseq`
(z-scores), `<gene>_cnv` (GISTIC calls −2..2) and `<gene>_mut` (0/1). Split files are CSVs of case ids in
columns per part.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from histofuse.io import InputError
from histofuse.sources.manifest import COLUMNS

DAYS_PER_MONTH = 30.4375  # 365.25 / 12: the tables give months with decimals, everything here is in days
_SUFFIXES = {"expression": ("_rnaseq",), "alterations": ("_cnv", "_mut")}
_REQUIRED = ("case_id", "slide_id", "age", "survival_months", "censorship")
_OPTIONAL = ("is_female", "oncotree_code")
_WITHOUT_MEANING = ("Unnamed: 0", "site", "train")


class PublishedTable(NamedTuple):
    """One published table, per patient."""

    cases: pd.DataFrame  # the case contract but has_*: case_id, time_days, event, age, sex, diagnosis, slides
    expression: pd.DataFrame  # case_id + one float32 column per gene symbol, z-scores as published
    alterations: pd.DataFrame  # case_id + `<gene>_cnv`, `<gene>_mut`, float32
    report: dict  # counts and oddities, for the log


def manifest(settings: Mapping) -> pd.DataFrame:
    """The manifest rows of a cohort: its table, and the published splits that the settings name.

    `settings`: `{table: {url, sha256}, splits: {protocol: [{url, sha256}, …]}}`; `splits` may be absent.
    """
    table = settings["table"]
    name = PurePosixPath(urlsplit(table["url"]).path).name
    rows = [{"file_id": "table", "kind": "table", "filename": name, **table}]
    for protocol, files in settings.get("splits", {}).items():
        for number, file in enumerate(files):
            row = {
                "file_id": f"{protocol}/{number}",
                "kind": "splits",
                "filename": f"{protocol}.{number}.csv",
            }
            rows.append({**row, **file})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).fillna("")


def read_table_zip(path: str | Path) -> PublishedTable:
    """Read a published table and reduce its slide rows to patients.

    Raises InputError naming column and case when a required column is missing, when two slide rows of one
    patient disagree, or when a gene column holds text, nothing or an infinite number. Constant gene columns
    are kept: which columns are constant depends on the training part, and is decided there.
    """
    table = _read_csv(Path(path))
    missing = [column for column in _REQUIRED if column not in table]
    if missing:
        raise InputError(f"{path}: the column(s) {', '.join(missing)} are missing")
    table["case_id"] = table["case_id"].astype(str)
    genes = {part: [c for c in table if c.endswith(ends)] for part, ends in _SUFFIXES.items()}
    columns = [*genes["expression"], *genes["alterations"]]
    _check_numbers(table, columns, path)
    clinical = ["age", "survival_months", "censorship", *(c for c in _OPTIONAL if c in table)]
    _check_agreement(table, [*clinical, *columns], path)

    slides = table.groupby("case_id")["slide_id"].agg(lambda names: sorted(set(map(_slide_id, names))))
    patients = table.groupby("case_id")[clinical].first()  # the first value that is not missing
    matrix = table.drop_duplicates("case_id").set_index("case_id")[columns].loc[patients.index].astype(np.float32)
    expression = matrix[genes["expression"]].rename(columns=lambda column: column.removesuffix("_rnaseq"))
    known = {*_REQUIRED, *_OPTIONAL, *_WITHOUT_MEANING, *columns}
    report = {
        "rows": len(table),
        "cases": len(patients),
        "expression": len(genes["expression"]),
        "alterations": len(genes["alterations"]),
        "constant": sorted(matrix.columns[matrix.nunique() == 1]),
        "ignored_columns": sorted(set(table) - known),
    }
    return PublishedTable(
        cases=_cases(patients, slides, path),
        expression=expression.reset_index(),
        alterations=matrix[genes["alterations"]].reset_index(),
        report=report,
    )


def _read_csv(path: Path) -> pd.DataFrame:
    """The one table of a zip, whatever its name (one is called `.csv.zip` although it is plain CSV)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [i.filename for i in archive.infolist() if not i.is_dir() and not _hidden(i.filename)]
            if len(names) != 1:
                raise InputError(f"{path}: expected one table in the archive, found {len(names)}")
            with archive.open(names[0]) as file:
                return pd.read_csv(file, low_memory=False)
    except (zipfile.BadZipFile, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: not a zipped CSV table ({error})") from error


def _hidden(name: str) -> bool:
    """Archives made on a Mac carry a second, hidden member."""
    return name.startswith("__MACOSX") or PurePosixPath(name).name.startswith(".")


def _check_numbers(table: pd.DataFrame, columns: list[str], path: str | Path) -> None:
    for column in columns:
        numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            case, value = table["case_id"].iloc[bad[0]], table[column].iloc[bad[0]]
            raise InputError(f"{path}: column {column}, case {case}: {value} is not a finite number")
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = numbers


def _check_agreement(table: pd.DataFrame, columns: list[str], path: str | Path) -> None:
    several = table[table["case_id"].duplicated(keep=False)]
    differs = several.groupby("case_id")[columns].nunique() > 1
    if differs.to_numpy().any():
        case = differs.index[differs.any(axis=1)][0]
        column = differs.columns[differs.loc[case]][0]
        values = several.loc[several["case_id"] == case, column].unique().tolist()
        raise InputError(f"{path}: case {case}: its slide rows disagree in column {column}: {values}")


def _slide_id(name: object) -> str:
    return str(name).removesuffix(".svs")


def _cases(patients: pd.DataFrame, slides: pd.Series, path: str | Path) -> pd.DataFrame:
    for column, allowed in (("censorship", {0, 1}), ("is_female", {0, 1})):
        if column in patients:
            bad = patients.index[patients[column].notna() & ~patients[column].isin(allowed)]
            if len(bad):
                value = patients.loc[bad[0], column]
                raise InputError(f"{path}: column {column}, case {bad[0]}: {value} is neither 0 nor 1")
    months, age = (pd.to_numeric(patients[c], errors="coerce").to_numpy(float) for c in ("survival_months", "age"))
    female = patients.get("is_female", pd.Series(np.nan, patients.index))
    return pd.DataFrame(
        {
            "case_id": patients.index,
            "time_days": months * DAYS_PER_MONTH,
            "event": (1 - patients["censorship"]).astype("Int8").array,  # censorship 1 = still alive when last seen
            "age": age,
            "sex": female.map({1: "female", 0: "male"}).astype("string").array,
            "diagnosis": patients.get("oncotree_code", pd.Series(pd.NA, patients.index)).astype("string").array,
            "slides": slides.loc[patients.index].tolist(),
        }
    )

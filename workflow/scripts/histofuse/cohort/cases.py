"""The case table: one row per patient, the contract that every later stage relies on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, read_table

TYPES = {
    "case_id": "string",
    "source": "string",  # the cohort's kind of source
    "time_days": "float64",  # from diagnosis to death or last contact; missing without a usable follow-up
    "event": "Int8",  # 1 = died, 0 = censored; missing where the time is
    "age": "float64",  # at diagnosis, years
    "sex": "string",
    "diagnosis": "string",
    "grade": "Int8",
    "idh": "string",
    "codel_1p19q": "boolean",
    "slides": "object",  # list of slide ids = file names without .svs
    "has_expression": "bool",
    "has_alterations": "bool",
    "has_slides": "bool",
}
_VALUES = {
    "event": {0, 1},
    "sex": {"female", "male"},
    "grade": {2, 3, 4},
    "idh": {"mutant", "wildtype"},
}


def check_cases(frame: pd.DataFrame, where: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check a case table and find the cases that survival analysis cannot use.

    Returns `(cases, unfollowed)`: the contract's columns in order and type, sorted by case_id, and a frame
    `case_id, reason` of the cases without a usable follow-up. These stay among the cases, with neither time nor event:
    what a slide or a gene tells of a diagnosis does not depend on it, and survival tasks set them aside
    (`labels.population`). Raises InputError naming the case when the table itself is wrong: a missing column, a case
    twice, a value that the contract does not know, or no case with a follow-up. `where` is only named.
    """
    missing = [column for column in TYPES if column not in frame]
    if missing:
        raise InputError(f"{where}: the case table lacks the column(s) {', '.join(missing)}")
    frame = frame[list(TYPES)].reset_index(drop=True)
    _check_ids(frame["case_id"], where)
    for column, kind in TYPES.items():
        frame[column] = _typed(frame, column, kind, where)
    frame = frame.sort_values("case_id", ignore_index=True)
    reasons = _reasons(frame)
    lacking = reasons != ""
    if lacking.all():
        raise InputError(f"{where}: no case has a usable follow-up ({len(frame)} have none)")
    unfollowed = pd.DataFrame({"case_id": frame["case_id"], "reason": reasons})[lacking]
    frame.loc[lacking, ["time_days", "event"]] = [np.nan, pd.NA]
    return frame, unfollowed.reset_index(drop=True)


def read_cases(path: str | Path) -> pd.DataFrame:
    """Read a case table that a run wrote; breaches of the contract raise InputError."""
    frame = read_table(path)
    if "slides" in frame:
        frame["slides"] = frame["slides"].map(list)
    return check_cases(frame, path)[0]


def with_defaults(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Add the contract's columns that a source does not know: `values` where given, missing otherwise."""
    frame = frame.copy()
    for column in TYPES:
        if column in values:
            frame[column] = values[column]
        elif column not in frame:
            frame[column] = pd.NA
    return frame


def _check_ids(ids: pd.Series, where: str | Path) -> None:
    unnamed = ids.isna() | (ids.astype(str).str.strip() == "")
    if unnamed.any():
        raise InputError(f"{where}, row {int(np.flatnonzero(unnamed)[0]) + 1}: the case has no case_id")
    if ids.duplicated().any():
        raise InputError(f"{where}: case {ids[ids.duplicated()].iloc[0]} is there twice; one row per case is needed")


def _typed(frame: pd.DataFrame, column: str, kind: str, where: str | Path) -> pd.Series:
    """A column in its type, checked against its allowed values."""
    values, cases = frame[column], frame["case_id"]

    def refuse(bad: pd.Series, expected: str) -> None:
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            value = values.iloc[first]
            shown = value.item() if isinstance(value, np.generic) else value
            raise InputError(f"{where}: case {cases.iloc[first]}: {column} is {shown!r}; expected {expected}")

    if column == "slides":
        refuse(
            values.map(lambda v: not (isinstance(v, list) and all(isinstance(s, str) for s in v))),
            "a list of slide ids",
        )
        return values
    if kind in {"float64", "Int8"}:
        numbers = pd.to_numeric(values.astype(object).where(values.notna(), np.nan), errors="coerce")
        refuse(numbers.isna() & values.notna(), "a number")
        if column == "age":
            refuse((numbers < 0) | (numbers > 130), "years between 0 and 130")
        if column in _VALUES:
            allowed = sorted(_VALUES[column])
            refuse(numbers.notna() & ~numbers.isin(allowed), f"one of {allowed} or nothing")
        return numbers.astype(kind)
    if kind == "bool":
        refuse(~values.map(lambda v: isinstance(v, bool | np.bool_)), "true or false")
    if kind == "boolean":
        refuse(values.notna() & ~values.map(lambda v: isinstance(v, bool | np.bool_)), "true, false or nothing")
    if column in _VALUES:
        allowed = sorted(_VALUES[column])
        refuse(values.notna() & ~values.isin(allowed), f"one of {allowed} or nothing")
    return values.astype(kind)


def _reasons(frame: pd.DataFrame) -> pd.Series:
    """Why a case has no usable follow-up; "" for the others."""
    time = frame["time_days"]
    reasons = pd.Series("", index=frame.index)
    reasons[time.isna()] = "no follow-up time"
    reasons[np.isinf(time)] = "the follow-up time is infinite"
    reasons[time < 0] = "the follow-up time is negative"
    reasons[frame["event"].isna()] = "unknown whether the patient died"
    return reasons

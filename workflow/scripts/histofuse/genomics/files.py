"""What the readers of the GDC's per-case tables share: comment lines, headers, and setting bad files aside."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from histofuse.io import InputError, progress

Content = TypeVar("Content")


def read_gdc_table(path: str | Path, columns: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Read a tab-separated file (plain or .gz) that may start with `#` lines.

    Returns the `columns`, not yet converted to numbers where they hold text, and the line number of the first
    row below the header. Raises InputError when the file cannot be read or lacks a column.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            comments = 0
            while (line := file.readline()).startswith("#"):
                comments += 1
        header = line.rstrip("\r\n").split("\t")
        missing = [column for column in columns if column not in header]
        if missing:
            raise InputError(f"{path}: the column(s) {', '.join(missing)} are missing; is it the right kind of file?")
        table = pd.read_csv(path, sep="\t", skiprows=comments, usecols=list(columns), low_memory=False, quoting=3)
    except (
        OSError,
        EOFError,
        zlib.error,
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
    ) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); download it again") from error
    return table, comments + 2


def read_or_set_aside(
    files: Iterable[tuple[str, str | Path]],
    read: Callable[[str | Path, str], Content],
    label: str,
    max_excluded: float,
) -> tuple[dict[str, Content], pd.DataFrame]:
    """Read one file per case by `read(path, case)`. Returns the contents by case, and a frame `case_id,
    reason` of those set aside.

    Raises InputError for a case with two files, and when more than the share `max_excluded` cannot be read.
    """
    contents: dict[str, Content] = {}
    reasons: dict[str, str] = {}
    files = sorted(files)
    for case, path in progress(files, label):
        if case in contents or case in reasons:
            raise InputError(f"case {case} has two files of {label}; the manifest must name one")
        try:
            contents[case] = read(path, case)
        except InputError as error:
            reasons[case] = str(error)
            print(f"set aside: {case}: {error}")
    if len(reasons) > max_excluded * len(files) or not contents:
        first = next(iter(reasons.values()), "there is no file")
        raise InputError(
            f"{len(reasons)} of {len(files)} files of {label} cannot be used (allowed: {max_excluded:.0%}). "
            f"The first: {first}"
        )
    return contents, pd.DataFrame({"case_id": list(reasons), "reason": list(reasons.values())}, dtype=str)

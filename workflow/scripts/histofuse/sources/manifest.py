"""The manifest: which files a cohort consists of, where to get them, how they are known to be right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from histofuse.io import InputError, read_table

# `mpp` is the resolution of an image that does not state it itself, µm per pixel.
COLUMNS = ("file_id", "case_id", "kind", "filename", "url", "size", "md5", "sha256", "mpp", "batch")
OPTIONAL = {"mpp"}  # a manifest from outside may lack it
KINDS = (
    "clinical",  # GDC /cases response, JSON
    "molecular",  # cBioPortal clinical-data response, JSON
    "expression",  # GDC augmented STAR counts, TSV
    "mutations",  # GDC masked somatic mutations, MAF (gz)
    "copy_number",  # GDC gene-level copy number, TSV
    "slide",  # whole-slide image, SVS or plain JPEG
    "table",  # published table, zipped CSV
    "splits",  # published split, CSV; its file_id is "<protocol>/<split>"
    "ivygap_expression",  # the Allen Institute's FPKM of microdissected samples, zipped CSVs
    "ivygap_tumors",  # its clinical table, CSV
    "ivygap_samples",  # its table of RNA-seq samples, CSV
    "ivygap_sub_blocks",  # its table of tissue sub-blocks, CSV
)
_DIGESTS = {"md5": 32, "sha256": 64}
_UNSAFE = re.compile(r"[/\\\x00-\x1f:]")


def empty_manifest() -> pd.DataFrame:
    """A manifest without rows, written where a cohort cannot be had."""
    return pd.DataFrame(columns=list(COLUMNS), dtype=str)


def read_manifest(path: str | Path, *, batched: bool = True) -> pd.DataFrame:
    """Read and check a manifest; every column is text, an unknown size or checksum is "".

    `batched=False` also accepts a table without the `batch` column (as a source writes it).
    """
    frame = read_table(path, dtype=str, keep_default_na=False)
    if not batched and "batch" not in frame:
        frame["batch"] = ""
    check_manifest(frame, path)
    return frame.reindex(columns=list(COLUMNS), fill_value="")


def check_manifest(frame: pd.DataFrame, path: str | Path) -> None:
    """Refuse a manifest that could write outside its folder, fetch from elsewhere, or confuse two files.

    `path` is only named in messages. Raises InputError naming the row (1 = first below the header).
    """
    missing = [column for column in COLUMNS if column not in frame and column not in OPTIONAL]
    if missing:
        raise InputError(f"{path}: the manifest lacks the column(s) {', '.join(missing)}")
    for number, row in enumerate(frame.to_dict("records"), start=1):
        problem = _problem(row)
        if problem:
            raise InputError(f"{path}, row {number} (file_id {row['file_id']!r}): {problem}")
    for columns in (["file_id"], ["kind", "filename"]):
        twice = frame[frame.duplicated(columns, keep=False)]
        if len(twice):
            rows = ", ".join(str(frame.index.get_loc(label) + 1) for label in twice.index[:2])
            values = " / ".join(twice.iloc[0][columns])
            raise InputError(f"{path}, rows {rows}: the same {' and '.join(columns)} twice ({values})")


def _problem(row: Mapping[str, str]) -> str | None:
    """What is wrong with a row, or None."""
    if not row["file_id"]:
        return "empty file_id"
    if row["kind"] not in KINDS:
        return f"unknown kind {row['kind']!r}; one of {', '.join(KINDS)}"
    name = row["filename"]
    if not name or name.startswith(".") or name != name.strip() or _UNSAFE.search(name):
        return f"the file name {name!r} is not a plain name; it could land outside its folder"
    if urlsplit(row["url"]).scheme not in {"http", "https"} or not urlsplit(row["url"]).hostname:
        return f"the address {row['url']!r} is not an http(s) address"
    if not re.fullmatch(r"\d*", row["size"]):
        return f"the size {row['size']!r} is not a whole number of bytes"
    mpp = row.get("mpp", "")
    if mpp and not _is_resolution(mpp):
        return f"the resolution mpp {mpp!r} is not a positive number of µm per pixel"
    for algorithm, length in _DIGESTS.items():
        if row[algorithm] and not re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", row[algorithm]):
            return f"{algorithm} {row[algorithm]!r} is not {length} hexadecimal digits"
    return None


def _is_resolution(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def assign_batches(frame: pd.DataFrame, files_per_job: Mapping[str, int]) -> pd.DataFrame:
    """Name the job that fetches each file: `<kind>-<number>`, at most `files_per_job[kind]` files each.

    Files are ordered by kind and name, so that the same files always meet in the same job. Of the kinds that are
    not named in `files_per_job`, slides are one job each and all files of another kind are one job. Returns a new
    frame in that order.
    """
    frame = frame.sort_values(["kind", "filename"], ignore_index=True)
    position = frame.groupby("kind").cumcount()
    length = frame["kind"].map(lambda kind: files_per_job.get(kind, 1 if kind == "slide" else len(frame)))
    frame["batch"] = [f"{k}-{n:03d}" for k, n in zip(frame["kind"], position // length)]
    return frame.reindex(columns=list(COLUMNS), fill_value="")

"""Files, logs and progress: the only module of the library (with the readers of each stage) that touches the disk."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd


class InputError(ValueError):
    """Something the user gave is wrong. The message says what, in which file, row or key, and what to do."""


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; sync and rename it when the block succeeds, remove it when it fails.

    A reader therefore sees the whole file or no file, also after a power cut or `kill -9`. The temporary name keeps
    the suffix, because several writers choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*"):  # by a writer of this file that was killed
        left_over.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix="".join(path.suffixes[-2:]))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: object, path: str | Path) -> None:
    write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", path)


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a frame as .parquet, .csv or .tsv (by suffix); the index is never written."""
    path = Path(path)
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        elif path.suffix in {".csv", ".tsv"}:
            frame.to_csv(temporary, index=False, sep="," if path.suffix == ".csv" else "\t")
        else:
            raise ValueError(f"{path}: tables are written as .parquet, .csv or .tsv")


def read_table(path: str | Path, **options) -> pd.DataFrame:
    """Read what `write_table` wrote. Raises InputError naming the file when it cannot be read."""
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path, **options)
        return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", **options)
    except (ValueError, OSError) as error:  # pandas' parser errors and pyarrow's are both ValueErrors
        raise InputError(f"{path}: cannot be read as a table ({error})") from error


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    return digest(path, "sha256")


def digest(path: str | Path, algorithm: str) -> str:
    """Hex digest of a file's content by any algorithm of hashlib (GDC gives md5)."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def start_log(path: str | Path) -> None:
    """Send everything this process and its children print to a log file, and the reason of a crash as well.

    Snakemake's `log:` directive names a file but redirects nothing. Replacing the descriptors (not only sys.stdout)
    also catches C libraries and child processes. On an uncaught error the last line also goes to the terminal.
    """
    terminal = os.fdopen(os.dup(2), "w")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)

    def report(kind, error, trace):
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        print(f"{kind.__name__}: {error}\n(the whole story is in {path})", file=terminal, flush=True)

    sys.excepthook = report


def hide_gpus(asked: int) -> None:
    """Keep a job that asked for no GPU off those of the machine; to be called before torch first looks for one.

    A limit on GPUs counts what jobs ask for: one that takes a GPU unasked takes it from another. Importing torch does
    not look.
    """
    if not asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def progress(items: Iterable, label: str, total: int | None = None) -> Iterable:
    """A progress bar on a terminal; in a log file, a line at most every 30 seconds; nothing where tqdm is absent."""
    try:
        from tqdm import tqdm
    except ImportError:  # a bare GPU image
        return items

    interactive = sys.stderr.isatty()
    return tqdm(
        items,
        desc=label,
        total=total,
        mininterval=0.5 if interactive else 30,
        dynamic_ncols=interactive,
        ascii=not interactive,
        disable=None if interactive else False,
    )

"""Fetch the files of a manifest: from the network or a mirror, resumed, verified, renamed last."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pandas as pd

from histofuse.io import InputError, digest, progress, write_json

TRIES = 3  # in a row without one new byte
TIMEOUT = 60  # seconds without an answer
PAUSE = 2.0  # seconds before the second try; twice as long before each further one
_CHUNK = 1 << 20
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_PADDING = 4096  # bytes that may follow the end marker


NETWORK = "network"


class Unavailable(Exception):
    """A cohort cannot be had from here; the message is the reason that a table's row will show.

    `awaits` is what may change that while the settings stay: the NETWORK, a file that a mirror folder lacks, or None.
    """

    def __init__(self, reason: str, awaits: str | Path | None = None):
        super().__init__(reason)
        self.awaits = awaits


def source_of(url: str, mirror: str | Path | None) -> Path | str:
    """Where to look for `url`: a Path in a mirror folder, or the address to ask.

    A mirror is a folder or an http(s) address laid out as `<host>/<path>`; it is looked at *instead of* the
    network. The query of an address is no part of a mirror's layout: a mirror holds one answer per path.
    """
    if not mirror:
        return url
    parts = urlsplit(url)
    inside = PurePosixPath(parts.netloc, parts.path.lstrip("/"))
    if ".." in inside.parts or "\\" in str(inside):
        raise InputError(f"{url}: the address climbs out of the mirror")
    if str(mirror).startswith(("http://", "https://")):
        return f"{str(mirror).rstrip('/')}/{inside}"
    return Path(mirror, inside)


def ask(url: str, source: str, question: Mapping | None = None, *, timeout: float, hint: str = "") -> dict:
    """The JSON answer of `source` (where `url` is looked for) to a question (POST) or, without one, to an address.

    Raises Unavailable when nobody answers, or only that it is busy, after three tries; InputError when the question is
    refused (`hint` says what to check) or the answer is not JSON.
    """
    body = None if question is None else json.dumps(question).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "histofuse"}
    try:
        with _open(urllib.request.Request(source, body, headers), timeout, PAUSE) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        if error.code >= 500 or error.code in _WORTH_ANOTHER_TRY:
            raise Unavailable(f"{url} answers {error.code} {error.reason}", NETWORK) from error
        raise InputError(f"{url} refuses the question: {error.code} {error.reason}{hint}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} cannot be reached ({getattr(error, 'reason', error)})", NETWORK) from error
    except ValueError as error:
        raise InputError(f"{url} did not answer JSON ({error}); is a proxy in between?") from error


def _open(request: urllib.request.Request, timeout: float, pause: float) -> http.client.HTTPResponse:
    """The answer to a request, which a server that is busy or silent is sent three times."""
    for failures in range(1, TRIES + 1):
        try:
            return urllib.request.urlopen(request, timeout=timeout)
        except OSError as error:
            # Nobody there at all (no such host, connection refused) is told at once and will not change in seconds.
            silent = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            if failures == TRIES or not (silent or getattr(error, "code", None) in _WORTH_ANOTHER_TRY):
                raise
        time.sleep(pause * 2 ** (failures - 1))


def fetch_file(
    row: Mapping[str, str],
    directory: str | Path,
    mirror: str | Path | None = None,
    release: str | None = None,
    *,
    pause: float = PAUSE,
) -> Path:
    """Bring one row of a checked manifest to `directory/<kind>/<filename>` and return that path.

    A file that is there and verifies is kept. Without a checksum that says nothing of where it came from: then it is
    kept only if it was fetched from the same address and at the same data `release`, which a hidden record beside it
    tells (`.source`). A download that broke off goes on where it stopped (`.part`
    beside the target), is tried again after `pause`, 2·`pause`, … seconds, and gets its name only once its
    size and checksums are right. The part that an earlier run left is continued only where a checksum will tell
    whether both halves are of one file. Raises InputError when the content is not what the manifest says (the part
    is removed), when the file does not exist there, or after three tries in a row that brought nothing.
    """
    target = Path(directory, row["kind"], row["filename"])
    record, origin = target.with_name(f".{target.name}.source"), {"url": row["url"], "release": release}
    checked = bool(row["md5"] or row["sha256"])
    if target.exists() and (checked or _recorded(record) == origin) and not problem_with(target, row):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    if not checked:
        part.unlink(missing_ok=True)
    source = source_of(row["url"], mirror)
    if isinstance(source, Path):
        _take(source, part, row)
        problem = problem_with(part, row)
    else:
        resumed = part.exists()
        _download(source, part, row, pause)
        problem = problem_with(part, row)
        if problem and resumed:  # the part may stem from an older version of the file: once more from the start
            part.unlink()
            _download(source, part, row, pause)
            problem = problem_with(part, row)
    if problem:
        part.unlink()
        raise InputError(f"{row['filename']} from {source}: {problem}. Nothing was kept; check the manifest's row")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    record.unlink(missing_ok=True)  # before it could speak of another file
    part.replace(target)
    if not checked:
        write_json(origin, record)
    return target


def _recorded(record: Path) -> object:
    """Where a file without a checksum came from; None where nothing legible says so."""
    try:
        return json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None


def problem_with(path: Path, row: Mapping[str, str]) -> str | None:
    """Say how a file differs from its manifest row (size, md5, sha256), or None if it does not.

    A live API answer has no checksum: it must at least be JSON, IvyGAP's tables and archive, which have none
    either, not the HTML page of a proxy or of a portal that moved them, and a slide named as a JPEG a whole one.
    """
    size = path.stat().st_size
    if row["size"] and size != int(row["size"]):
        return f"expected {row['size']} bytes, got {size}"
    for algorithm in ("md5", "sha256"):
        if row[algorithm] and (got := digest(path, algorithm)) != row[algorithm].lower():
            return f"expected {algorithm} {row[algorithm].lower()}, got {got}"
    if row["kind"] in {"clinical", "molecular"}:
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            return f"expected JSON, got something else ({error})"
    if row["kind"].startswith("ivygap_"):
        with path.open("rb") as file:
            if file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                return "expected a table or a zip, got a web page (HTML); the portal has moved the file"
    if row["kind"] == "slide" and Path(row["filename"]).suffix.lower() in {".jpg", ".jpeg"}:
        return _problem_with_jpeg(path)
    return None


def _problem_with_jpeg(path: Path) -> str | None:
    """What tells without decoding that a file is not a whole JPEG: its first bytes, and the end marker."""
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(max(0, path.stat().st_size - _JPEG_PADDING))
        end = file.read()
    if start.lstrip().startswith(b"<"):
        return "expected a JPEG image, got a web page (HTML)"
    if not start.startswith(_JPEG_START):
        return "expected a JPEG image, got something else"
    # Within the image data a marker's first byte is always followed by 0 or a restart number.
    if _JPEG_END not in end:
        return "the JPEG image is cut off: its end marker is missing"
    return None


def _take(source: Path, part: Path, row: Mapping[str, str]) -> None:
    """Link (or, across file systems, copy) a mirror's file."""
    if not source.is_file():
        raise InputError(f"{row['filename']}: {source} is not in the mirror (it stands for {row['url']})")
    part.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), part)
    except OSError:
        shutil.copyfile(source, part)


def _download(url: str, part: Path, row: Mapping[str, str], pause: float) -> None:
    """Append to `part` until it is whole."""
    failures, longest = 0, _length(part)
    while True:
        try:
            return _continue(url, part, row)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in _WORTH_ANOTHER_TRY:
                raise InputError(f"{row['filename']}: {url}: {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        if _length(part) > longest:
            failures, longest = 0, _length(part)
        failures += 1
        if failures == TRIES:
            raise InputError(
                f"{row['filename']}: {url}: {TRIES} tries brought nothing ({reason}). "
                "Start again later (what has come is kept), or name a mirror in the config"
            )
        time.sleep(pause * 2 ** (failures - 1))


def _continue(url: str, part: Path, row: Mapping[str, str]) -> None:
    """One request from the end of `part` on; raises OSError or HTTPException when the answer breaks off."""
    start = _length(part)
    if row["size"] and start == int(row["size"]):
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "histofuse"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what we have: the checksum decides whether that is the file
            return
        raise
    with answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        with part.open("ab" if goes_on else "wb") as file:
            expected = answer.headers.get("Content-Length")
            got = 0
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                got += len(chunk)
    if expected is not None and got < int(expected):
        raise http.client.IncompleteRead(b"", int(expected) - got)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def fetch_batch(
    manifest: pd.DataFrame, batch: str, directory: str | Path, mirror: str | None, release: str | None = None
) -> pd.DataFrame:
    """Fetch the files of one batch; return its rows with the column `path` (the receipt).

    A file whose manifest row has no checksum gets one in the receipt, so that other content makes another receipt.
    """
    rows = manifest[manifest["batch"] == batch].copy()
    if rows.empty:
        raise InputError(f"the manifest has no batch {batch!r}")
    rows["path"] = [
        str(fetch_file(row, directory, mirror, release)) for row in progress(rows.to_dict("records"), batch)
    ]
    unknown = (rows["md5"] == "") & (rows["sha256"] == "")
    rows.loc[unknown, "sha256"] = [digest(path, "sha256") for path in rows.loc[unknown, "path"]]
    return rows


def check_available(manifest: pd.DataFrame, mirror: str | None, *, timeout: float = 10, pause: float = PAUSE) -> None:
    """Refuse a manifest with a file that cannot be had: Unavailable with the reason, one sentence for a table's row.

    Nothing is downloaded: a mirror folder is looked into, a server is asked for the headers, or one byte
    where it does not answer HEAD.
    """
    for url in manifest["url"].unique():
        source = source_of(url, mirror)
        if isinstance(source, Path):
            if not source.is_file():
                raise Unavailable(f"{url} is not in the mirror", source)
        elif reason := _unreachable(source, timeout, pause):
            raise Unavailable(f"{url} cannot be reached ({reason})", NETWORK)


def _unreachable(url: str, timeout: float, pause: float) -> str | None:
    reason = None
    for request in (
        urllib.request.Request(url, method="HEAD"),
        urllib.request.Request(url, headers={"Range": "bytes=0-0"}),
    ):
        request.add_header("User-Agent", "histofuse")
        try:
            with _open(request, timeout, pause):
                return None
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code not in {403, 405, 501}:  # the usual answers of servers that know no HEAD
                return reason
        except (OSError, http.client.HTTPException) as error:
            return str(getattr(error, "reason", "") or error or type(error).__name__)
    return reason

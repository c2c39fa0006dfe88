"""The files of the Ivy Glioblastoma Atlas Project (Allen Institute; Puchalski et al., Science 2018).

One zip holds the expression of 270 microdissected samples (README.txt, fpkm_table.csv, rows-genes.csv,
columns-samples.csv); the portal's own API gives tables of 42 tumours, 279 RNA-seq samples and 946 sub-blocks.
None has a published checksum. Addresses that went out of use (`/static/download/*.csv`) answer a web page with
status 200, so that every reader looks at the content.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from histofuse.io import InputError
from histofuse.sources.manifest import COLUMNS

PORTAL = "https://glioblastoma.alleninstitute.org"
FILES = {  # kind: name on disk, address
    "ivygap_expression": (
        "gene_expression_matrix_2014-11-25.zip",
        f"{PORTAL}/api/v2/well_known_file_download/305873915",
    ),
    "ivygap_tumors": ("tumor_details.csv", f"{PORTAL}/api/v2/gbm/tumor_details.csv"),
    "ivygap_samples": ("rna_seq_samples_details.csv", f"{PORTAL}/api/v2/gbm/rna_seq_samples_details.csv"),
    "ivygap_sub_blocks": ("sub_block_details.csv", f"{PORTAL}/api/v2/gbm/sub_block_details.csv"),
}
_PINS = {"url", "size", "md5", "sha256"}


def manifest(settings: Mapping) -> pd.DataFrame:
    """The manifest rows of the IvyGAP cohort, one per entry of `FILES`.

    `settings["files"]` (optional) pins a kind to another address or a checksum:
    `{ivygap_expression: {url: …, sha256: …}}`. Raises InputError for a kind or a key that it does not know.
    """
    pins = settings.get("files", {})
    unknown = sorted(set(pins) - set(FILES))
    if unknown:
        raise InputError(f"files: {unknown[0]!r} is not a file of IvyGAP; there are {', '.join(FILES)}")
    rows = []
    for kind, (name, url) in FILES.items():
        wrong = sorted(set(pins.get(kind, {})) - _PINS)
        if wrong:
            raise InputError(f"files: {kind}: {wrong[0]!r} is not one of {', '.join(sorted(_PINS))}")
        rows.append({"file_id": kind, "kind": kind, "filename": name, "url": url, **pins.get(kind, {})})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).fillna("").astype(str)


def read_details(path: str | Path) -> pd.DataFrame:
    """Read one of the portal's CSV tables; every column is text, an empty cell is "".

    Raises InputError when the file holds a web page, no table, or lines of different lengths.
    """
    path = Path(path)
    try:
        if path.read_bytes()[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise InputError(
                f"{path}: holds a web page (HTML), not a table; the portal answers old addresses so, with status 200. "
                f"Remove the file and fetch it from {PORTAL}/api/v2/gbm/"
            )
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: cannot be read as a CSV table ({error}); download it again") from error
    if table.empty or len(table.columns) < 2:
        raise InputError(f"{path}: holds no table of comma-separated columns with rows; download it again")
    return table.apply(lambda column: column.str.strip())

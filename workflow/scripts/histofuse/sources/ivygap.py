"""The files of the Ivy Glioblastoma Atlas Project (Allen Institute; Puchalski et al., Science 2018).

One zip holds the expression of 270 microdissected samples (README.txt, fpkm_table.csv, rows-genes.csv,
columns-samples.csv); the portal's own API gives tables of 42 tumours, 279 RNA-seq samples and 946 sub-blocks.
H&E images are listed and served by the Allen Brain Atlas API (https://brain-map.org/support/documentation, RMA and
"Downloading an image"): a sub-block is cut into sections, 11 to 15 of them stained with H&E, each a plain JPEG.
None has a published checksum. Addresses that went out of use (`/static/download/*.csv`) answer a web page with
status 200, so that every reader looks at the content.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd

from histofuse.io import InputError
from histofuse.sources.fetch import Unavailable, ask, source_of
from histofuse.sources.manifest import COLUMNS

PORTAL = "https://glioblastoma.alleninstitute.org"
ATLAS = "https://api.brain-map.org/api/v2"
IMAGES = "model::SectionDataSet,rma::criteria,[failed$eqfalse],products[name$eq'Glioblastoma'],treatments[name$eq'H&E']"
IMAGES += ",rma::include,specimen,sub_images,rma::options[num_rows$eqall]"
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
_SUB_BLOCK = re.compile(r"(W\d+-\d+-\d+)-[\w.-]+")  # W10-1-1-B.2.01: tumour, then block and sub-block


def manifest(settings: Mapping, mirror: str | None = None, *, timeout: float = 60) -> pd.DataFrame:
    """The manifest rows of the IvyGAP cohort: one per entry of `FILES` and, with `slides`, one per H&E image.

    `settings` (all optional): `files` pins a kind to another address or a checksum, `{ivygap_expression: {url: …,
    sha256: …}}`; `slides: true` asks for the list of images, of which `slides_per_sub_block` (1) are taken. Raises
    InputError for a kind or a key of `files` that it does not know and for a list that cannot be understood,
    Unavailable when the list cannot be had.
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
    if settings.get("slides", False):
        rows += image_rows(_ask_for_images(mirror, timeout), settings.get("slides_per_sub_block", 1))
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).fillna("").astype(str)


def _ask_for_images(mirror: str | None, timeout: float) -> object:
    """The answer that lists all H&E images; a mirror holds it as `query.json`."""
    url = f"{ATLAS}/data/query.json?{urlencode({'criteria': IMAGES})}"
    source = source_of(url, mirror)
    if not isinstance(source, Path):
        return ask(f"{ATLAS}/data/query.json", source, timeout=timeout)
    if not source.is_file():
        raise Unavailable(f"{ATLAS}/data/query.json is not in the mirror", source)
    try:
        return json.loads(source.read_bytes())
    except ValueError as error:
        raise InputError(f"{source}: holds no JSON ({error}); save the answer of {url} again") from error


def image_rows(answer: object, per_sub_block: int) -> list[dict[str, str]]:
    """Manifest rows of the H&E images that an RMA answer lists, in the order of sub-block and image.

    answer : `{success, total_rows, msg}` with a data set per sub-block in `msg`: `specimen.external_specimen_name`
        (W10-1-1-B.2.01) and `sub_images` with `id`, `resolution` (µm per pixel), `section_number` and `failed`
    per_sub_block : how many images of a sub-block are taken, evenly spaced through it: neighbouring sections look alike

    The case is the tumour. An image without a usable resolution is listed without `mpp`; its reader will say so. Data
    sets of specimens that are no sub-blocks of a tumour are left out, and counted on standard output.

    Raises InputError when the answer reports a failure, is cut short, lacks a field, or lists no image.
    """
    found: dict[str, dict[int, dict]] = {}
    others = 0
    for data_set in _data_sets(answer):
        specimen = _field(data_set, "specimen", dict, "a data set")
        name = _field(specimen, "external_specimen_name", str, "a specimen").strip()
        if not _SUB_BLOCK.fullmatch(name):
            others += 1
            continue
        images = found.setdefault(name, {})
        for image in _field(data_set, "sub_images", list, f"the data set of {name}"):
            number = _field(image, "id", int, f"an image of {name}")
            if not image.get("failed"):
                images[number] = image
    if others:
        print(f"{others} data sets of specimens that are no sub-blocks of a tumour were left out")
    rows = []
    for name, images in sorted(found.items()):
        order = sorted(images.values(), key=lambda image: (image.get("section_number") or 0, image["id"]))
        taken = min(per_sub_block, len(order))
        rows += [_image_row(name, order[(2 * k + 1) * len(order) // (2 * taken)]) for k in range(taken)]
    if not rows:
        raise InputError(f"{ATLAS}/data/query.json lists no H&E image of a tumour; the atlas may have been rearranged")
    return rows


def _data_sets(answer: object) -> list:
    """`msg` of an answer that is whole and reports success."""
    where = f"{ATLAS}/data/query.json"
    if not isinstance(answer, dict) or "msg" not in answer:
        raise InputError(f"{where}: the answer has no `msg`; it is not what the Allen Institute documents")
    if not answer.get("success") or not isinstance(answer["msg"], list):
        raise InputError(f"{where} reports a failure: {str(answer['msg'])[:200]}")
    total = answer.get("total_rows", len(answer["msg"]))
    if isinstance(total, int) and len(answer["msg"]) < total:
        raise InputError(f"{where}: {len(answer['msg'])} of {total} data sets were listed")
    return answer["msg"]


def _field(record: object, name: str, kind: type, what: str) -> object:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{ATLAS}/data/query.json: {what} has no usable {name!r} (it is {value!r})")
    return value


def _image_row(sub_block: str, image: Mapping) -> dict[str, str]:
    mpp = image.get("resolution")
    usable = isinstance(mpp, int | float) and 0 < mpp < math.inf
    return {
        "file_id": str(image["id"]),
        "case_id": _SUB_BLOCK.fullmatch(sub_block)[1],
        "kind": "slide",
        "filename": f"{sub_block}_{image['id']}.jpg",
        "url": f"{ATLAS}/image_download/{image['id']}",
        "mpp": str(mpp) if usable else "",
    }


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

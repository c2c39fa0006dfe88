"""Ask the Genomic Data Commons which files a cohort of projects has, and write the answer as a manifest.

API: https://docs.gdc.cancer.gov/API/Users_Guide/Search_and_Retrieval/ (`/files` by POST with paging,
`/cases`, `/data/{uuid}`, `/status`). IDH, 1p/19q and the grade of gliomas are not in the GDC; they come from
a cBioPortal study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd

from histofuse.io import InputError, progress
from histofuse.sources.fetch import Unavailable, ask, source_of
from histofuse.sources.manifest import COLUMNS, read_manifest

GDC = "https://api.gdc.cancer.gov"
CBIOPORTAL = "https://www.cbioportal.org/api"
KINDS = {
    "expression": {
        "data_type": "Gene Expression Quantification",
        "analysis.workflow_type": "STAR - Counts",
    },
    "mutations": {"data_type": "Masked Somatic Mutation"},
    "copy_number": {"data_type": "Gene Level Copy Number", "analysis.workflow_type": "ASCAT3"},
    "slide": {"data_type": "Slide Image", "experimental_strategy": "Diagnostic Slide"},
}
_FIELDS = ",".join(
    (
        "file_id",
        "file_name",
        "file_size",
        "md5sum",
        "cases.submitter_id",
        "cases.samples.submitter_id",
        "cases.samples.sample_type",
    )
)
_PRIMARY = "Primary Tumor"


def query_manifest(
    settings: Mapping, mirror: str | None = None, *, page: int = 1000, timeout: float = 60
) -> tuple[pd.DataFrame, str]:
    """The manifest rows of a cohort and the GDC data release they describe.

    `settings`: `projects` (GDC project ids), `primary_sites` (only cases of these; a project such as CPTAC-3
    holds many), `kinds` (of `KINDS`; all by default), `cbioportal_study` (optional). A case keeps all its
    diagnostic slides but one file of each other kind: the primary tumour's, and of several the one whose sample
    id sorts first, so that repeated assays do not depend on the order of the answer.

    Raises Unavailable when the service does not answer or has no file of a kind, InputError when it refuses the
    question or answers nonsense.
    """
    kinds = _kinds(settings)
    release = _ask(f"{GDC}/status", None, mirror, timeout).get("data_release", "unknown")
    hits = {kind: _files(settings, kind, mirror, page, timeout) for kind in progress(kinds, "GDC /files")}
    rows = [row for kind in kinds for row in _rows(hits[kind], kind)]
    rows += _clinical_rows(settings)
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS)).fillna("")
    cases = ", ".join(settings["projects"])
    cases += f" ({', '.join(sites)})" if (sites := settings.get("primary_sites")) else ""
    _refuse_without_files(frame, kinds, f"the GDC has no open files for {cases}", "list it in a `manifest`")
    return frame, release


def pinned_manifest(path: str | Path, settings: Mapping) -> pd.DataFrame:
    """The rows of a list of files that takes the place of the query; docs/manifest.md tells what it holds.

    Raises InputError when the files have no case or no clinical record, Unavailable when it lacks a kind of `kinds`.
    """
    frame = read_manifest(path, batched=False)
    without_case = frame["kind"].isin(KINDS) & (frame["case_id"] == "")
    if without_case.any():
        number = int(without_case.to_numpy().argmax())
        row = frame.iloc[number]
        raise InputError(
            f"{path}, row {number + 1} (file_id {row['file_id']!r}): a file of kind {row['kind']} needs the case_id "
            "that it is of"
        )
    if not (frame["kind"] == "clinical").any():
        raise InputError(
            f"{path}: no row is of kind clinical, and without it nothing tells the follow-up of the cases; add the "
            "GDC's answer to /cases (docs/manifest.md)"
        )
    _refuse_without_files(frame, _kinds(settings), f"{path} lists no files", "add it")
    return frame


def _kinds(settings: Mapping) -> list[str]:
    return settings.get("kinds", list(KINDS))


def _refuse_without_files(frame: pd.DataFrame, kinds: list[str], reason: str, remedy: str) -> None:
    """Refuse a cohort that lacks files of a kind that is asked for."""
    if lacking := [kind for kind in kinds if kind not in set(frame["kind"])]:
        raise Unavailable(
            f"{reason} of kind {' and '.join(lacking)}; take what is not there out of `kinds`, or {remedy}"
        )


def _clinical_rows(settings: Mapping) -> list[dict]:
    """The live answers that hold survival and molecular labels; they have no checksum."""
    conditions = _of_cases(settings)
    filters = conditions[0] if len(conditions) == 1 else {"op": "and", "content": conditions}
    query = {
        "filters": json.dumps(filters, separators=(",", ":")),
        "expand": "demographic,diagnoses,follow_ups",
        "size": 20000,
        "format": "JSON",
    }
    rows = [
        {
            "file_id": "cases",
            "kind": "clinical",
            "filename": "cases.json",
            "url": f"{GDC}/cases?{urlencode(query)}",
        }
    ]
    study = settings.get("cbioportal_study")
    for level in ("PATIENT", "SAMPLE") if study else ():  # studies differ in the level that carries an attribute
        rows.append(
            {
                "file_id": f"{study}/{level.lower()}",
                "kind": "molecular",
                "filename": f"{study}.{level.lower()}.json",
                "url": f"{CBIOPORTAL}/studies/{study}/clinical-data?clinicalDataType={level}",
            }
        )
    return rows


def _rows(hits: list[dict], kind: str) -> list[dict]:
    """Manifest rows of one kind, in the order of case and sample.

    A file that is not of one case, such as one made of pooled samples, says nothing of any: these are left out, and
    named on standard output.
    """
    found, pooled = [], []
    for hit in hits:
        if len(hit.get("cases", [])) != 1:
            pooled.append(hit["file_id"])
            continue
        (case,) = hit["cases"]
        samples = case.get("samples", [])
        primary = sorted(s["submitter_id"] for s in samples if s.get("sample_type") == _PRIMARY)
        if kind == "slide" or primary:
            found.append((case["submitter_id"], primary, hit["file_id"], hit))
    if pooled:
        print(f"{len(pooled)} {kind} files that are not of one case were left out: {', '.join(pooled)}")
    found.sort(key=lambda entry: entry[:3])
    rows, seen = [], set()
    for case_id, _, file_id, hit in found:
        if kind != "slide" and case_id in seen:
            continue
        seen.add(case_id)
        rows.append(
            {
                "file_id": file_id,
                "case_id": case_id,
                "kind": kind,
                "filename": hit["file_name"],
                "url": f"{GDC}/data/{file_id}",
                "size": str(hit["file_size"]),
                "md5": hit["md5sum"],
            }
        )
    return rows


def _of_cases(settings: Mapping, prefix: str = "") -> list[dict]:
    """Which cases are asked for, as GDC's filters; `prefix` is where a case lies in what is asked for."""
    fields = {"project.project_id": settings["projects"], "primary_site": settings.get("primary_sites")}
    wanted = {f"{prefix}{field}": list(values) for field, values in fields.items() if values}
    return [{"op": "in", "content": {"field": field, "value": values}} for field, values in wanted.items()]


def _files(settings: Mapping, kind: str, mirror: str | None, page: int, timeout: float) -> list[dict]:
    """All hits of `/files` for one kind, page by page."""
    conditions = {"access": "open"} | KINDS[kind]
    of_files = [{"op": "in", "content": {"field": field, "value": [value]}} for field, value in conditions.items()]
    filters = {"op": "and", "content": _of_cases(settings, "cases.") + of_files}
    hits: list[dict] = []
    while True:
        question = {
            "filters": filters,
            "fields": _FIELDS,
            "sort": "file_id:asc",
            "size": page,
            "from": len(hits),
            "format": "JSON",
        }
        data = _ask(f"{GDC}/files", question, mirror, timeout)["data"]
        hits += data["hits"]
        if len(hits) >= data["pagination"]["total"]:
            return hits
        if not data["hits"]:
            raise InputError(f"{GDC}/files: {len(hits)} of {data['pagination']['total']} {kind} files were listed")


def _ask(url: str, question: Mapping | None, mirror: str | None, timeout: float) -> dict:
    """The JSON answer to a question (POST) or an address (GET)."""
    source = source_of(url, mirror)
    if isinstance(source, Path):
        raise Unavailable(
            f"{url} can be asked on the network only; name a `manifest` file for use with a mirror folder"
        )
    return ask(url, source, question, timeout=timeout, hint="; check `projects`")

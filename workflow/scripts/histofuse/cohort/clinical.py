"""Case tables from the GDC's clinical records and a cBioPortal study's molecular labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError

DAYS_PER_YEAR = 365.25
_EVENTS = {"Dead": 1, "Alive": 0}
_ALTERATIONS = {"mutations", "copy_number"}
_IDH = {"mutant": "mutant", "wt": "wildtype", "wild-type": "wildtype", "wildtype": "wildtype"}
_CODEL = {"idhmut-codel": True, "idhmut-non-codel": False, "idhwt": False}
_GRADES = {"G2": 2, "G3": 3, "G4": 4}


def cases_from_gdc(hits: Iterable[Mapping], molecular: Iterable[Mapping], manifest: pd.DataFrame) -> pd.DataFrame:
    """One row per case that has at least one file in the manifest.

    Parameters ---------- hits: `data.hits` of GDC `/cases` with demographic, diagnoses and follow_ups
    expanded. molecular: records of cBioPortal `clinical-data` (patientId, clinicalAttributeId, value): GRADE,
    IDH_STATUS and
        IDH_CODEL_SUBTYPE are read, everything else is ignored.
    manifest: the cohort's manifest (case_id, kind, filename).

    Returns the columns of the case contract but `source` and `diagnosis`, and `primary_diagnosis` as the GDC
    has it. Follow-up of the living is the later of `diagnoses.days_to_last_follow_up` and
    `follow_ups.days_to_follow_up`; many living patients lack the first. Raises InputError for a case that the
    answer holds twice.
    """
    labels = _molecular_labels(molecular)
    files = manifest[manifest["case_id"] != ""].groupby("case_id")
    kinds = files["kind"].agg(set)
    slides = manifest[manifest["kind"] == "slide"].groupby("case_id")["filename"].agg(sorted)
    rows = {}
    for hit in hits:
        case = hit["submitter_id"]
        if case in rows:
            raise InputError(f"GDC /cases: case {case} is there twice")
        if case not in kinds.index:
            continue
        has = kinds[case]
        rows[case] = {
            "case_id": case,
            **_clinical(hit),
            **labels.get(case, {}),
            "slides": [Path(name).stem for name in slides.get(case, [])],
            "has_expression": "expression" in has,
            "has_alterations": has >= _ALTERATIONS,
            "has_slides": "slide" in has,
        }
    missing = sorted(set(kinds.index) - set(rows))
    if missing:
        raise InputError(f"GDC /cases has no record of {len(missing)} cases of the manifest, the first {missing[0]}")
    columns = {"grade": "Int8", "idh": "string", "codel_1p19q": "boolean"}
    frame = pd.DataFrame(list(rows.values()))
    for column, kind in columns.items():
        frame[column] = frame.get(column, pd.Series(pd.NA, frame.index)).astype(kind)
    return frame


def _clinical(hit: Mapping) -> dict:
    """Survival, age, sex and the GDC's own diagnosis of one record."""
    demographic = hit.get("demographic") or {}
    diagnoses = hit.get("diagnoses") or []
    primary = next((d for d in diagnoses if d.get("classification_of_tumor") == "primary"), None)
    first = primary or (diagnoses[0] if diagnoses else {})
    event = _EVENTS.get(demographic.get("vital_status"))
    if event == 1:
        time = demographic.get("days_to_death")
    else:
        contacts = [d.get("days_to_last_follow_up") for d in diagnoses]
        contacts += [f.get("days_to_follow_up") for f in hit.get("follow_ups") or []]
        time = max((days for days in contacts if days is not None), default=None)
    age = first.get("age_at_diagnosis")
    sex = (demographic.get("gender") or demographic.get("sex_at_birth") or "").lower()
    return {
        "time_days": np.nan if time is None else float(time),
        "event": event,
        "age": np.nan if age is None else age / DAYS_PER_YEAR,
        "sex": sex if sex in {"female", "male"} else None,
        "primary_diagnosis": first.get("primary_diagnosis"),
    }


def _molecular_labels(records: Iterable[Mapping]) -> dict[str, dict]:
    """`{case: {grade, idh, codel_1p19q}}`; two different values of one attribute count as unknown."""
    values: dict[tuple[str, str], set[str]] = {}
    for record in records:
        key = (record["patientId"], record["clinicalAttributeId"])
        values.setdefault(key, set()).add(str(record["value"]).strip())
    meanings = {
        "GRADE": ("grade", lambda text: _GRADES.get(text.upper())),
        "IDH_STATUS": ("idh", lambda text: _IDH.get(text.lower())),
        "IDH_CODEL_SUBTYPE": ("codel_1p19q", lambda text: _CODEL.get(text.lower())),
    }
    labels: dict[str, dict] = {}
    for (case, attribute), found in values.items():
        if attribute in meanings and len(found) == 1:
            column, meaning = meanings[attribute]
            labels.setdefault(case, {})[column] = meaning(*found)
    return labels

"""Cases of the Ivy Glioblastoma Atlas Project from its clinical table."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.cohort.labels import GLIOBLASTOMA
from histofuse.io import InputError

_CLINICAL = ("tumor_name", "survival_days", "age_in_years")
_TUMOR = re.compile(r"(W\d+)-(\d+)-(\d+)")  # patient, operation, tumour


def cases_from_ivygap(
    details: pd.DataFrame, expressed: Set[str], where: str | Path, manifest: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per patient of a table that carries IvyGAP's clinical columns.

    Parameters
    ----------
    details: text columns `tumor_name` (W10-1-1), `survival_days` and `age_in_years` ("44 yrs"), with one row
        per tumour (tumor_details.csv) or several that agree (sub_block_details.csv, rna_seq_samples_details.csv).
    expressed: the tumours that have an expression profile.
    where: only named in messages.
    manifest: the cohort's manifest (case_id, kind, filename); without it no tumour has slides.

    Returns the columns of the case contract that the source knows, and `case_id, reason` of tumours set aside.

    - **A recorded survival is taken as a death.** The source has no column that tells deaths from last contacts;
      it records survival of 32 of 42 tumours. Those without it have no follow-up; survival tasks set them aside.
      They are not missing at random (8 of the 9 whose MGMT status is known are methylated, a good sign): the
      cohort's survival is that of its deaths.
    - All tumours are glioblastomas of grade 4, as the source says. It gives neither IDH nor 1p/19q nor sex.
    - The case is the tumour, but patients must not be in two parts of a split: of a patient's several tumours
      (W22-1-1 and W22-2-1) only the first operation's is kept.

    Raises InputError naming the tumour for a missing column, rows that disagree, an unknown name, or a number
    that is none.
    """
    missing = [column for column in _CLINICAL if column not in details]
    if missing:
        raise InputError(f"{where}: the column(s) {', '.join(missing)} are missing; there are {', '.join(details)}")
    tumors = details[list(_CLINICAL)].drop_duplicates().sort_values("tumor_name", ignore_index=True)
    names = tumors["tumor_name"]
    if names.duplicated().any():
        name = names[names.duplicated()].iloc[0]
        differs = tumors[names == name].nunique()
        column = differs.index[differs > 1][0]
        values = tumors.loc[names == name, column].tolist()
        raise InputError(f"{where}: tumour {name}: its rows disagree in {column}: {values}")
    parts = names.str.extract(rf"^{_TUMOR.pattern}$")
    if parts.isna().any(axis=None):
        name = names[parts.isna().any(axis=1)].iloc[0]
        raise InputError(f"{where}: {name!r} is not the name of a tumour (expected, for instance, W10-1-1)")
    unknown = sorted(set(expressed) - set(names))
    if unknown:
        raise InputError(f"{where}: the table lacks {len(unknown)} tumours with expression, the first {unknown[0]}")
    slides = _slides(manifest)
    frame = pd.DataFrame(
        {
            "case_id": names,
            "time_days": _numbers(tumors, "survival_days", r"\d+(?:\.\d*)?", where),
            "event": 1,  # of those without a time as well: it is the time that they lack
            "age": _numbers(tumors, "age_in_years", r"(\d+(?:\.\d*)?)(?:\s*(?:yrs?|years?))?", where),
            "diagnosis": GLIOBLASTOMA,
            "grade": 4,
            "slides": [slides.get(name, []) for name in names],
            "has_expression": names.isin(expressed),
            "has_alterations": False,
            "has_slides": names.isin(set(slides)),
        }
    )
    order = parts.assign(operation=parts[1].astype(int), tumor=parts[2].astype(int)).sort_values(["operation", "tumor"])
    first = order.groupby(0)["tumor"].transform(lambda tumors: tumors.index[0])
    later = first[first != first.index]
    reasons = [f"a later tumour of the patient of {names[number]}" for number in later]
    excluded = pd.DataFrame({"case_id": names[later.index], "reason": reasons}, dtype=str).sort_values("case_id")
    return frame.drop(later.index).reset_index(drop=True), excluded.reset_index(drop=True)


def _slides(manifest: pd.DataFrame | None) -> dict[str, list[str]]:
    """`{tumour: slide ids}`; an image of a tumour that the clinical table lacks belongs to no case."""
    if manifest is None:
        return {}
    images = manifest[manifest["kind"] == "slide"]
    return {tumor: sorted(Path(name).stem for name in names) for tumor, names in images.groupby("case_id")["filename"]}


def _numbers(tumors: pd.DataFrame, column: str, pattern: str, where: str | Path) -> pd.Series:
    """A text column as floats; what is empty is missing, what does not match is refused."""
    text = tumors[column].str.strip()
    wrong = (text != "") & ~text.str.fullmatch(pattern)
    if wrong.any():
        tumor, value = tumors.loc[wrong, "tumor_name"].iloc[0], text[wrong].iloc[0]
        raise InputError(f"{where}: tumour {tumor}: {column} is {value!r}, not a number")
    return pd.to_numeric(text.str.extract(r"^([\d.]+)", expand=False), errors="coerce").astype(np.float64)

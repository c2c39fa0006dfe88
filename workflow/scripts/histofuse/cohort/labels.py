"""What a task predicts: the WHO 2021 diagnosis, class indices, and the cases that take part."""

from __future__ import annotations

from collections.abc import Mapping, Set

import pandas as pd

from histofuse.io import InputError

GLIOBLASTOMA = "glioblastoma"
ASTROCYTOMA_4 = "astrocytoma_grade4"
ASTROCYTOMA_23 = "astrocytoma_grade23"
OLIGODENDROGLIOMA = "oligodendroglioma"
DELETIONS = {"homozygous": {-2}, "any": {-2, -1}}  # copy-number calls of CDKN2A that make an astrocytoma grade 4


def who2021_diagnosis(cases: pd.DataFrame, cdkn2a: pd.Series | None = None, deletion: str = "homozygous") -> pd.Series:
    """The adult diffuse glioma that IDH, 1p/19q, grade and CDKN2A make of a case (Louis et al.,
    Neuro-Oncology 2021).

    In order: IDH wild type is glioblastoma; 1p/19q co-deletion is oligodendroglioma; a CDKN2A deletion or
    histological grade 4 is astrocytoma grade 4; the rest with a known grade is astrocytoma grade 2/3. A case whose
    IDH, 1p/19q (of a mutant) or grade is not known, where the rules ask for it, has no diagnosis. An astrocytoma of
    histological grade 2 or 3 whose CDKN2A is not known counts as grade 2/3, though a deletion would make it grade 4:
    to leave such cases out would leave out all that have no copy number.

    Parameters: `cases` with `case_id, idh, codel_1p19q, grade`; `cdkn2a`: calls −2..2 by case_id, if known;
    `deletion`: `homozygous` (call −2, as the WHO has it) or `any` (−1 too, as the authors of KS-Fusion count).
    Returns a string Series aligned with `cases`.
    """
    idh, codel, grade = cases["idh"], cases["codel_1p19q"], cases["grade"]
    deleted = pd.Series(False, cases.index)
    if cdkn2a is not None:
        deleted = cases["case_id"].map(cdkn2a).isin(DELETIONS[deletion])
    mutant = idh.eq("mutant").fillna(False)
    astrocytoma = mutant & codel.eq(False).fillna(False)
    diagnosis = pd.Series(pd.NA, cases.index, dtype="string")
    diagnosis[idh.eq("wildtype").fillna(False)] = GLIOBLASTOMA
    diagnosis[mutant & codel.eq(True).fillna(False)] = OLIGODENDROGLIOMA
    diagnosis[astrocytoma & grade.isin([2, 3])] = ASTROCYTOMA_23
    diagnosis[astrocytoma & (deleted | grade.eq(4).fillna(False))] = ASTROCYTOMA_4
    return diagnosis


def task_labels(cases: pd.DataFrame, task: Mapping, every_class: bool = True) -> pd.Series:
    """The class index of each case: its place in `task["classes"]`, missing where the value is in no class.

    `task`: `{column: name, classes: {class name: [values], …}}`, ordered; values are compared as text, so
    that a grade may be written 2 or "2". Raises InputError for an unknown column, a value in two classes and, with
    `every_class`, an empty class.
    """
    column = task["column"]
    if column not in cases:
        raise InputError(f"the task's column {column!r} is not in the case table; there are {', '.join(cases)}")
    index: dict[str, int] = {}
    for number, (name, values) in enumerate(task["classes"].items()):
        for value in map(str, values):
            if value in index:
                raise InputError(f"the value {value!r} of {column} is in two classes of the task, {name!r} the second")
            index[value] = number
    labels = cases[column].astype("string").map(index).astype("Int64")
    for number, name in enumerate(task["classes"]):
        if every_class and not labels.eq(number).any():
            found = ", ".join(sorted(cases[column].dropna().astype(str).unique()))
            raise InputError(f"the class {name!r} of {column} has no case; the values found are: {found or 'none'}")
    return labels


def population(
    cases: pd.DataFrame, task: Mapping, available: Mapping[str, Set[str]], every_class: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cases on which all models of a task are trained and compared, and why the others are not.

    A case takes part when it has every modality in `available` (name → ids of the cases that have it) and a label for
    a classification, a follow-up for survival: rows of one table must not differ in their patients. `every_class`
    refuses a class without a case; cases that are only scored may lack one.

    Returns `(frame case_id, time_days, event, label; frame case_id, reason)`, sorted by case_id; label is missing in a
    survival task, time and event of a case without follow-up in a classification. Raises InputError when nobody takes
    part.
    """
    cases = cases.sort_values("case_id", ignore_index=True)
    reasons = pd.Series("", cases.index)
    for modality, ids in available.items():
        reasons[~cases["case_id"].isin(ids)] += f"; no {modality}"
    labels = pd.Series(pd.NA, cases.index, dtype="Int64")
    if task["kind"] == "classification":
        labels = task_labels(cases, task, every_class)
        values = cases[task["column"]].astype("string")
        reasons[labels.isna() & values.isna()] += f"; no {task['column']}"
        reasons[labels.isna() & values.notna()] += f"; its {task['column']} is in no class of the task"
    elif task["kind"] == "survival":
        reasons[cases["time_days"].isna() | cases["event"].isna()] += "; no follow-up"
    else:
        raise InputError(f"unknown kind of task {task['kind']!r}; survival or classification")
    taken = reasons == ""
    frame = cases.loc[taken, ["case_id", "time_days", "event"]].assign(label=labels[taken])
    if frame.empty:
        outcome = "a follow-up" if task["kind"] == "survival" else "a label"
        raise InputError(f"no case has all of {', '.join(available)} and {outcome}; the task cannot be run")
    excluded = pd.DataFrame({"case_id": cases["case_id"], "reason": reasons.str.removeprefix("; ")})[~taken]
    return frame.reset_index(drop=True), excluded.reset_index(drop=True)

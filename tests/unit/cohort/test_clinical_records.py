"""Reading GDC and cBioPortal answers, hand-made in their documented form."""

import pandas as pd
import pytest

from histofuse.cohort.clinical import cases_from_gdc
from histofuse.io import InputError

MANIFEST = pd.DataFrame(
    [
        ("T-1", "slide", "T-1-DX2.tiff"),
        ("T-1", "slide", "T-1-DX1.svs"),
        ("T-1", "expression", "1.tsv"),
        ("T-1", "mutations", "1.maf.gz"),
        ("T-1", "copy_number", "1.cn.tsv"),
        ("T-2", "mutations", "2.maf.gz"),
        ("T-3", "expression", "3.tsv"),
        ("", "clinical", "cases.json"),
    ],
    columns=["case_id", "kind", "filename"],
)
HITS = [
    {
        "submitter_id": "T-1",
        "demographic": {"gender": "female", "vital_status": "Dead", "days_to_death": 448},
        "diagnoses": [
            {"age_at_diagnosis": 18262.5, "days_to_last_follow_up": 500, "primary_diagnosis": "Glioblastoma"}
        ],
    },
    {
        "submitter_id": "T-2",
        "demographic": {"gender": "male", "vital_status": "Alive"},
        "diagnoses": [
            {"primary_diagnosis": "Recurrence", "classification_of_tumor": "recurrence", "age_at_diagnosis": 9},
            {"primary_diagnosis": "Astrocytoma", "classification_of_tumor": "primary", "days_to_last_follow_up": 100},
        ],
        "follow_ups": [{"days_to_follow_up": 730}, {"days_to_follow_up": None}, {}],
    },
    {"submitter_id": "T-3", "demographic": {"vital_status": "Not Reported"}},
    {"submitter_id": "T-9", "demographic": {"vital_status": "Alive"}},
]


def molecular(case, **values):
    return [{"patientId": case, "clinicalAttributeId": name, "value": value} for name, value in values.items()]


def test_records_become_cases():
    records = [
        *molecular("T-1", GRADE="G4", IDH_STATUS="WT", IDH_CODEL_SUBTYPE="IDHwt", AGE="50"),
        *molecular("T-2", GRADE="G2", IDH_STATUS="Mutant", IDH_CODEL_SUBTYPE="IDHmut-codel"),
        *molecular("T-2", GRADE="G3"),  # the study contradicts itself
    ]
    cases = cases_from_gdc(HITS, records, MANIFEST).set_index("case_id")
    assert cases.index.tolist() == ["T-1", "T-2", "T-3"]  # T-9 has no file
    dead, alive, unknown = (cases.loc[name] for name in cases.index)
    assert dead[["time_days", "event", "age", "sex"]].tolist() == [448, 1, 50, "female"]
    assert dead["slides"] == ["T-1-DX1", "T-1-DX2"]
    assert dead[["has_expression", "has_alterations", "has_slides"]].tolist() == [True, True, True]
    assert dead[["grade", "idh", "codel_1p19q"]].tolist() == [4, "wildtype", False]
    assert alive[["time_days", "event", "primary_diagnosis"]].tolist() == [730, 0, "Astrocytoma"]
    assert alive[["has_expression", "has_alterations", "has_slides"]].tolist() == [False, False, False]
    assert pd.isna(alive["grade"])
    assert alive["codel_1p19q"] is True or bool(alive["codel_1p19q"])
    assert unknown[["time_days", "event", "age", "sex", "grade", "idh"]].isna().all()


def test_without_molecular_records_the_labels_are_missing():
    cases = cases_from_gdc(HITS, [], MANIFEST)
    assert cases[["grade", "idh", "codel_1p19q"]].isna().all(axis=None)


def test_a_case_twice_or_without_record_is_refused():
    with pytest.raises(InputError, match="case T-1 is there twice"):
        cases_from_gdc([*HITS, HITS[0]], [], MANIFEST)
    with pytest.raises(InputError, match="no record of 1 cases of the manifest, the first T-2"):
        cases_from_gdc([HITS[0], HITS[2]], [], MANIFEST)

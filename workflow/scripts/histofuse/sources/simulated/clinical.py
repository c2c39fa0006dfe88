"""Clinical JSON as GDC's /cases answers, molecular labels as cBioPortal's clinical-data answers."""

from __future__ import annotations

from collections.abc import Sequence

from histofuse.sources.simulated.cohort import Case, generator, stable_uuid
from histofuse.sources.simulated.settings import Settings

PROJECT = "SIMU-GLIOMA"
STUDY = "lgggbm_tcga_pub"
# GDC's diagnoses are those of before 2021: astrocytomas of grade 4 were called glioblastoma.
HISTOLOGY = {
    ("astrocytoma", 2): "Astrocytoma, NOS",
    ("astrocytoma", 3): "Astrocytoma, anaplastic",
    ("oligodendroglioma", 2): "Oligodendroglioma, NOS",
    ("oligodendroglioma", 3): "Oligodendroglioma, anaplastic",
}
# Living patients lack diagnoses.days_to_last_follow_up more often than not; then follow_ups carry the time.
FOLLOW_UP_IN_DIAGNOSIS = 0.4


def gdc_cases(cases: Sequence[Case], settings: Settings) -> dict:
    """The response of GDC's /cases with demographic, diagnoses and follow_ups expanded."""
    hits = [_hit(case, settings) for case in cases]
    page = {
        "count": len(hits),
        "total": len(hits),
        "size": len(hits),
        "from": 0,
        "sort": "",
        "page": 1,
        "pages": 1,
    }
    return {"data": {"hits": hits, "pagination": page}, "warnings": {}}


def _hit(case: Case, settings: Settings) -> dict:
    rng = generator(settings, case.number, "clinical")
    rng.random(8)  # leave the draws behind that age and sex were made from
    demographic = {
        "demographic_id": stable_uuid(settings, case.case_id, "demographic"),
        "submitter_id": f"{case.case_id}_demographic",
        "gender": case.sex,
        "vital_status": "Dead" if case.event else "Alive",
        "age_at_index": case.age_days // 365,
        "days_to_birth": -case.age_days,
    }
    if case.event:
        demographic["days_to_death"] = case.time_days
    stem = "astrocytoma" if case.diagnosis.startswith("astrocytoma") else case.diagnosis
    diagnosis = {
        "diagnosis_id": stable_uuid(settings, case.case_id, "diagnosis"),
        "submitter_id": f"{case.case_id}_diagnosis",
        "age_at_diagnosis": case.age_days,
        "primary_diagnosis": HISTOLOGY.get((stem, case.grade), "Glioblastoma"),
        "tumor_grade": f"G{case.grade}" if case.grade < 4 else "Not Reported",
        "tissue_or_organ_of_origin": "Brain, NOS",
        "morphology": "9440/3",
    }
    # Visits lie before the end; the last one is the end itself, except for those who died between visits.
    visits = sorted({max(1, round(case.time_days * share)) for share in rng.uniform(0.1, 0.9, rng.integers(0, 3))})
    if not case.event:
        if rng.random() < FOLLOW_UP_IN_DIAGNOSIS:
            diagnosis["days_to_last_follow_up"] = case.time_days
        else:
            visits.append(case.time_days)
    if not case.has_follow_up:
        diagnosis.pop("days_to_last_follow_up", None)
        visits = []
    hit = {
        "id": stable_uuid(settings, case.case_id, "case"),
        "case_id": stable_uuid(settings, case.case_id, "case"),
        "submitter_id": case.case_id,
        "primary_site": "Brain",
        "disease_type": "Gliomas",
        "project": {"project_id": PROJECT},
        "demographic": demographic,
        "diagnoses": [diagnosis],
    }
    if visits:
        hit["follow_ups"] = [
            {
                "follow_up_id": stable_uuid(settings, case.case_id, "follow_up", k),
                "submitter_id": f"{case.case_id}_follow_up{k}",
                "days_to_follow_up": days,
            }
            for k, days in enumerate(visits)
        ]
    return hit


def molecular_labels(cases: Sequence[Case], settings: Settings) -> list[dict]:
    """cBioPortal's clinical-data of a study: one row per sample and attribute."""
    rows = []
    for case in cases:
        if not case.has_labels:
            continue
        mutant = case.idh == "mutant"
        values = {
            "GRADE": f"G{case.grade}",
            "IDH_1P19Q_SUBTYPE": "codel" if case.codel else "non-codel",
            "IDH_CODEL_SUBTYPE": ("IDHmut-codel" if case.codel else "IDHmut-non-codel") if mutant else "IDHwt",
            "IDH_STATUS": "Mutant" if mutant else "WT",
        }
        sample = f"{case.case_id}-01"
        for attribute, value in values.items():
            rows.append(
                {
                    "uniqueSampleKey": stable_uuid(settings, sample),
                    "uniquePatientKey": stable_uuid(settings, case.case_id),
                    "sampleId": sample,
                    "patientId": case.case_id,
                    "studyId": STUDY,
                    "clinicalAttributeId": attribute,
                    "value": value,
                }
            )
    return rows

"""Diagnosis rules, class indices and populations."""

import numpy as np
import pandas as pd
import pytest

from histofuse.cohort.labels import population, task_labels, who2021_diagnosis
from histofuse.io import InputError

# idh, codel, grade, CDKN2A call, diagnosis
WHO = [
    ("wildtype", False, 2, 0, "glioblastoma"),
    ("wildtype", pd.NA, pd.NA, pd.NA, "glioblastoma"),
    ("mutant", True, 3, -2, "oligodendroglioma"),
    ("mutant", True, pd.NA, 0, "oligodendroglioma"),
    ("mutant", False, 4, 0, "astrocytoma_grade4"),
    ("mutant", False, 2, -2, "astrocytoma_grade4"),
    ("mutant", False, pd.NA, -2, "astrocytoma_grade4"),
    ("mutant", False, 2, -1, "astrocytoma_grade23"),
    ("mutant", False, 3, pd.NA, "astrocytoma_grade23"),
    ("mutant", False, pd.NA, 0, None),
    ("mutant", pd.NA, 4, 0, None),
    (pd.NA, False, 4, -2, None),
]


def test_the_who_2021_rules_in_order():
    table = pd.DataFrame(WHO, columns=["idh", "codel_1p19q", "grade", "call", "expected"])
    table["case_id"] = [f"C{n}" for n in range(len(table))]
    table = table.astype({"idh": "string", "codel_1p19q": "boolean", "grade": "Int8"})
    calls = table.set_index("case_id")["call"].astype("Float64")
    got = who2021_diagnosis(table, calls)
    assert got.astype(object).where(got.notna(), None).tolist() == table["expected"].tolist()
    # The loss of one copy counts where it is asked for; nothing else changes.
    any_loss = who2021_diagnosis(table, calls, deletion="any")
    assert any_loss[7] == "astrocytoma_grade4"
    pd.testing.assert_series_equal(any_loss.drop(7), got.drop(7))
    # Without copy number only the histological grade 4 is left.
    got = who2021_diagnosis(table)
    assert got[5] == "astrocytoma_grade23"
    assert pd.isna(got[6])


def cases():
    return pd.DataFrame(
        {
            "case_id": ["D", "A", "B", "C"],
            "time_days": [4.0, 1.0, 2.0, 3.0],
            "event": [1, 0, 1, 0],
            "diagnosis": ["GBM", "ODG", None, "AASTR"],
            "grade": pd.array([4, 2, None, 3], "Int8"),
        }
    )


def test_classes_keep_the_order_of_the_task():
    task = {"kind": "classification", "column": "diagnosis", "classes": {"low": ["ODG", "AASTR"], "high": ["GBM"]}}
    assert task_labels(cases(), task).tolist()[:2] == [1, 0]
    by_grade = {"column": "grade", "classes": {"II": [2], "III": ["3"], "IV": [4]}}
    assert task_labels(cases(), by_grade).fillna(-1).tolist() == [2, 0, -1, 1]


def test_wrong_tasks_are_refused():
    with pytest.raises(InputError, match="column 'histology' is not in the case table"):
        task_labels(cases(), {"column": "histology", "classes": {}})
    with pytest.raises(InputError, match="'GBM' of diagnosis is in two classes"):
        task_labels(cases(), {"column": "diagnosis", "classes": {"a": ["GBM"], "b": ["GBM"]}})
    with pytest.raises(InputError, match="class 'b' of diagnosis has no case; the values found are: AASTR, GBM, ODG"):
        task_labels(cases(), {"column": "diagnosis", "classes": {"a": ["GBM"], "b": ["gbm"]}})
    with pytest.raises(InputError, match="unknown kind of task 'regression'"):
        population(cases(), {"kind": "regression"}, {})


def test_everyone_in_a_population_has_everything():
    task = {"kind": "classification", "column": "diagnosis", "classes": {"low": ["ODG"], "high": ["GBM"]}}
    frame, excluded = population(cases(), task, {"expression": {"A", "B", "C", "D"}, "slides": {"A", "B", "D"}})
    assert frame.to_dict("list") == {
        "case_id": ["A", "D"],
        "time_days": [1.0, 4.0],
        "event": [0, 1],
        "label": [0, 1],
    }
    assert excluded.to_dict("list") == {
        "case_id": ["B", "C"],
        "reason": ["no diagnosis", "no slides; its diagnosis is in no class of the task"],
    }


def test_cases_that_are_only_scored_may_lack_a_class():
    task = {"kind": "classification", "column": "diagnosis", "classes": {"none": ["gbm"], "high": ["GBM"]}}
    frame, _ = population(cases(), task, {}, every_class=False)
    assert set(frame["label"]) == {1}
    with pytest.raises(InputError, match="class 'none' of diagnosis has no case"):
        population(cases(), task, {})


def test_survival_alone_needs_a_follow_up():
    lost = cases().assign(time_days=[4.0, np.nan, 2.0, 3.0], event=pd.array([1, None, 1, 0], "Int8"))
    frame, excluded = population(lost, {"kind": "survival"}, {"expression": {"A", "B", "D"}})
    assert frame["case_id"].tolist() == ["B", "D"]
    assert excluded.to_dict("list") == {"case_id": ["A", "C"], "reason": ["no follow-up", "no expression"]}
    task = {"kind": "classification", "column": "diagnosis", "classes": {"low": ["ODG"], "high": ["GBM"]}}
    frame, _ = population(lost, task, {"expression": {"A", "B", "D"}})
    assert frame["case_id"].tolist() == ["A", "D"]
    assert frame[["time_days", "event"]].isna().any(axis=1).tolist() == [True, False]
    with pytest.raises(InputError, match="no case has all of expression and a follow-up"):
        population(lost, {"kind": "survival"}, {"expression": {"A"}})


def test_survival_needs_no_label():
    frame, excluded = population(cases(), {"kind": "survival"}, {"expression": {"A", "B"}})
    assert frame["case_id"].tolist() == ["A", "B"]
    assert frame["label"].isna().all()
    assert excluded["reason"].tolist() == ["no expression"] * 2
    with pytest.raises(InputError, match="no case has all of slides"):
        population(cases(), {"kind": "survival"}, {"slides": set()})

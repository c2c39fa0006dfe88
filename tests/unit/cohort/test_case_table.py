"""The case contract: who has no follow-up, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from histofuse.cohort.cases import TYPES, check_cases, read_cases, with_defaults
from histofuse.io import InputError, write_table


def table(**changes):
    frame = pd.DataFrame(
        {
            "case_id": ["B", "A", "C"],
            "time_days": [10.0, 0.0, 5.5],
            "event": [1, 0, 1],
            "age": [50.0, np.nan, 70.0],
            "sex": ["female", None, "male"],
            "grade": [2, None, 4],
            "idh": ["mutant", None, "wildtype"],
            "codel_1p19q": [True, None, False],
            "slides": [["b1", "b2"], [], ["c1"]],
        }
    ).assign(**changes)
    return with_defaults(frame, source="test", has_expression=True, has_alterations=False, has_slides=True)


def test_a_good_table_is_typed_sorted_and_survives_the_disk(tmp_path):
    cases, excluded = check_cases(table(), "t")
    assert cases["case_id"].tolist() == ["A", "B", "C"]
    assert cases.dtypes.astype(str).to_dict() == TYPES
    assert excluded.empty
    assert cases["time_days"].iloc[0] == 0  # a death or visit on the first day is a follow-up
    write_table(cases, tmp_path / "cases.parquet")
    pd.testing.assert_frame_equal(read_cases(tmp_path / "cases.parquet"), cases)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time_days": [10.0, 0.0, -1.0]}, "the follow-up time is negative"),
        ({"time_days": [10.0, 0.0, None]}, "no follow-up time"),
        ({"time_days": [10.0, 0.0, np.inf]}, "the follow-up time is infinite"),
        ({"event": [1, 0, None]}, "unknown whether the patient died"),
    ],
)
def test_cases_without_follow_up_stay_without_an_outcome(changes, reason, tmp_path):
    cases, unfollowed = check_cases(table(**changes), "t")
    assert cases["case_id"].tolist() == ["A", "B", "C"]
    assert cases[["time_days", "event"]].isna().to_numpy().tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert cases["grade"].tolist()[2] == 4
    assert cases.dtypes.astype(str).to_dict() == TYPES
    assert unfollowed.to_dict("records") == [{"case_id": "C", "reason": reason}]
    write_table(cases, tmp_path / "cases.parquet")
    pd.testing.assert_frame_equal(read_cases(tmp_path / "cases.parquet"), cases)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case_id": ["A", "A", "C"]}, "case A is there twice"),
        ({"case_id": ["B", None, "C"]}, "row 2: the case has no case_id"),
        ({"case_id": ["B", " ", "C"]}, "row 2: the case has no case_id"),
        ({"time_days": [10.0, "soon", 5.5]}, "case A: time_days is 'soon'; expected a number"),
        ({"event": [1, 2, 0]}, r"case A: event is 2; expected one of \[0, 1\]"),
        ({"event": [1, 0.5, 0]}, r"case A: event is 0\.5"),
        ({"sex": ["F", None, "male"]}, "case B: sex is 'F'"),
        ({"grade": [1, 2, 3]}, "case B: grade is 1"),
        ({"idh": ["mut", None, None]}, "case B: idh is 'mut'"),
        ({"codel_1p19q": ["yes", None, None]}, "case B: codel_1p19q is 'yes'"),
        ({"age": [50.0, 7000.0, 1.0]}, r"case A: age is 7000\.0; expected years"),
        ({"slides": ["b1", [], []]}, "case B: slides is 'b1'; expected a list"),
        ({"has_slides": [1, 0, 1]}, "case B: has_slides is 1; expected true or false"),
        ({"time_days": [-1.0, -1.0, -1.0]}, "no case has a usable follow-up"),
    ],
)
def test_breaches_of_the_contract_are_refused(changes, message):
    frame = table().assign(**changes)
    with pytest.raises(InputError, match=message):
        check_cases(frame, "cases.parquet")


def test_a_missing_column_is_named(tmp_path):
    write_table(table().drop(columns=["event"]), tmp_path / "cases.parquet")
    with pytest.raises(InputError, match=r"cases\.parquet: the case table lacks the column\(s\) event"):
        read_cases(tmp_path / "cases.parquet")

"""IvyGAP's clinical table as cases, and cohorts joined."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.cohort.cases import check_cases, with_defaults
from histofuse.cohort.ivygap import cases_from_ivygap
from histofuse.cohort.join import join_cases
from histofuse.io import InputError

MIRROR = Path("../shared/mirror/raw.githubusercontent.com")
SUB_BLOCKS = MIRROR / "vjcitn/ivygapSEOLD/6c0bd004c9e1e14a2837fb35fdf588d9947c1956/inst/CSV/sub_block_details.csv"
SAMPLES = MIRROR / "maevegaff/GliomaDataBase/b9aab886995bd54f484210eef41ffa1a60d0a100/new_file.csv"
needs_real_tables = pytest.mark.skipif(
    not (SUB_BLOCKS.exists() and SAMPLES.exists()), reason="IvyGAP's clinical tables are not in ../shared/mirror"
)


def details(**changes):
    """Four tumours of three patients in the layout of tumor_details.csv."""
    return pd.DataFrame(
        {
            "donor_id": ["12111", "10865", "12997", "268091685"],
            "tumor_name": ["W10-1-1", "W1-1-2", "W22-2-1", "W22-1-1"],
            "surgery": ["primary", "primary", "recurrent", "primary"],
            "survival_days": ["", "105", "363", "12.0000"],
            "age_in_years": ["44 yrs", "66 yrs", "52 yrs", ""],
        }
    ).assign(**changes)


def test_a_recorded_survival_is_a_death():
    frame, later = cases_from_ivygap(details(), {"W1-1-2"}, "t")
    cases, excluded = check_cases(with_defaults(frame, source="ivygap"), "t")
    assert cases["case_id"].tolist() == ["W1-1-2", "W10-1-1", "W22-1-1"]
    assert cases.loc[[0, 2], "time_days"].tolist() == [105, 12]
    assert cases.loc[[0, 2], "event"].tolist() == [1, 1]
    assert cases.loc[1, ["time_days", "event"]].isna().all()
    assert cases["age"].tolist()[:2] == [66, 44]
    assert np.isnan(cases["age"].iloc[2])
    assert cases["diagnosis"].tolist() == ["glioblastoma"] * 3
    assert cases["grade"].tolist() == [4, 4, 4]
    assert cases[["idh", "codel_1p19q", "sex"]].isna().all(axis=None)
    assert cases["has_expression"].tolist() == [True, False, False]
    assert excluded.to_dict("records") == [{"case_id": "W10-1-1", "reason": "no follow-up time"}]
    assert later.to_dict("records") == [{"case_id": "W22-2-1", "reason": "a later tumour of the patient of W22-1-1"}]


def test_rows_of_sub_blocks_are_one_tumour():
    once, _ = cases_from_ivygap(details(), set(), "t")
    thrice, _ = cases_from_ivygap(pd.concat([details()] * 3), set(), "t")
    pd.testing.assert_frame_equal(once, thrice)


def test_images_belong_to_their_tumour():
    manifest = pd.DataFrame(
        [
            ("W1-1-2", "slide", "W1-1-2-B.1.02_8.jpg"),
            ("W1-1-2", "slide", "W1-1-2-A.1.01_9.jpg"),
            ("W22-2-1", "slide", "W22-2-1-A.1.01_5.jpg"),
            ("W99-1-1", "slide", "W99-1-1-A.1.01_1.jpg"),  # not in the clinical table
            ("", "ivygap_tumors", "tumor_details.csv"),
        ],
        columns=["case_id", "kind", "filename"],
    )
    frame, later = cases_from_ivygap(details(), {"W1-1-2"}, "t", manifest)
    cases, _ = check_cases(with_defaults(frame, source="ivygap"), "t")
    assert cases["slides"].tolist() == [["W1-1-2-A.1.01_9", "W1-1-2-B.1.02_8"], [], []]
    assert cases["has_slides"].tolist() == [True, False, False]
    assert later["case_id"].tolist() == ["W22-2-1"]  # its image goes with it
    none, _ = cases_from_ivygap(details(), {"W1-1-2"}, "t", manifest[manifest["kind"] != "slide"])
    assert not none["has_slides"].any()


@pytest.mark.parametrize(
    ("table", "expressed", "message"),
    [
        (details().drop(columns="survival_days"), set(), r"column\(s\) survival_days are missing; there are donor_id"),
        (details(survival_days=["", "soon", "363", ""]), set(), "tumour W1-1-2: survival_days is 'soon', not a number"),
        (details(survival_days=["", "-5", "363", ""]), set(), "tumour W1-1-2: survival_days is '-5'"),
        (details(age_in_years="grown up"), set(), "tumour W1-1-2: age_in_years is 'grown up'"),
        (details(tumor_name=["W10", "a", "b", "c"]), set(), "'W10' is not the name of a tumour"),
        (details(tumor_name="W1-1-2"), set(), "tumour W1-1-2: its rows disagree in survival_days"),
        (details(), {"W1-1-2", "W9-1-1"}, "lacks 1 tumours with expression, the first W9-1-1"),
    ],
)
def test_bad_clinical_tables_are_named(table, expressed, message):
    with pytest.raises(InputError, match=message):
        cases_from_ivygap(table, expressed, "details.csv")


@needs_real_tables
def test_the_real_tables():
    sub_blocks, samples = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (SUB_BLOCKS, SAMPLES))
    expressed = set(samples["tumor_name"])
    assert len(samples) == 270
    assert len(expressed) == 37
    assert (sub_blocks.groupby("tumor_name")["survival_days"].first() != "").sum() == 32
    frame, later = cases_from_ivygap(sub_blocks, expressed, SUB_BLOCKS)
    assert later["case_id"].tolist() == ["W22-2-1"]
    assert len(frame) == 41
    cases, excluded = check_cases(with_defaults(frame, source="ivygap"), SUB_BLOCKS)
    assert (len(cases), len(excluded)) == (41, 9)
    followed = cases[cases["event"].notna()]
    assert (len(followed), followed["has_expression"].sum(), cases["has_expression"].sum()) == (32, 29, 36)
    assert followed["age"].notna().all()
    assert followed["time_days"].between(62, 1293).all()
    # The same survival is in the table of samples, with decimals.
    again, _ = cases_from_ivygap(samples, expressed, SAMPLES)
    again, _ = check_cases(with_defaults(again, source="ivygap"), SAMPLES)
    both = cases[cases["has_expression"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, both)


def cohort(*ids, slides=()):
    frame = pd.DataFrame(
        {
            "case_id": ids,
            "time_days": 10.0,
            "event": 1,
            "diagnosis": "glioblastoma",
            "slides": [list(slides) if number == 0 else [] for number in range(len(ids))],
        }
    )
    frame = with_defaults(frame, source="gdc", has_expression=True, has_alterations=False, has_slides=False)
    return check_cases(frame, "t")[0]


def test_joined_cases_keep_their_cohorts_name():
    joined = join_cases([("tcga", cohort("T-2", "T-1")), ("ivy", cohort("W1-1-2", "A-1"))])
    assert joined["case_id"].tolist() == ["A-1", "T-1", "T-2", "W1-1-2"]
    assert joined["source"].tolist() == ["ivy", "tcga", "tcga", "ivy"]
    pd.testing.assert_frame_equal(check_cases(joined, "t")[0], joined.astype({"source": "string"}))


def test_cohorts_must_not_overlap():
    with pytest.raises(InputError, match="case T-1 is in the cohorts a and b; cohorts must not overlap"):
        join_cases([("a", cohort("T-1")), ("b", cohort("T-2", "T-1"))])
    with pytest.raises(InputError, match="slide S is in the cohorts a and b"):
        join_cases([("a", cohort("T-1", slides=["S"])), ("b", cohort("T-2", slides=["S"]))])

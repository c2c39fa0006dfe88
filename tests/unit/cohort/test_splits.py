"""Splits never leak, keep their proportions and depend on nothing but seed, protocol and cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.cohort.splits import check_splits, draw, given_files, inner, read_given, strata_of
from histofuse.io import InputError

FOLDS = Path(
    "../shared/mirror/raw.githubusercontent.com/mahmoodlab/PORPOISE/3390dc40e15995ba852d7a561faf0e996cf20501"
    "/splits/5foldcv/tcga_gbmlgg"
)


def cohort(n=203, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "case_id": [f"C-{number:04d}" for number in range(n)],
            "event": pd.array(rng.random(n) < 0.33, "Int8"),
            "diagnosis": rng.choice(["a", "b", "c", None], n, p=[0.6, 0.3, 0.08, 0.02]),
        }
    )


MCCV = {"kind": "mccv", "n_splits": 15, "test": 0.2, "seed": 7}
PROTOCOLS = [
    MCCV,
    {**MCCV, "stratify": False, "val": 0.1},
    {"kind": "holdout", "test": 0.1, "val": 0.1, "seed": 7},
    {"kind": "kfold", "n_splits": 3, "seed": 7},
    {"kind": "kfold", "n_splits": 5, "val": 0.1, "seed": 7, "stratify": False},
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_case_is_in_one_part_of_each_split_and_shares_are_met(protocol):
    cases = cohort()
    splits = draw(cases, protocol)
    for _, rows in splits.groupby("split"):
        assert sorted(rows["case_id"]) == cases["case_id"].tolist()
        sizes = rows["part"].value_counts()
        test = 1 / protocol["n_splits"] if protocol["kind"] == "kfold" else protocol["test"]
        assert abs(sizes["test"] - test * len(cases)) <= 1
        assert sizes.get("val", 0) == round(protocol.get("val", 0) * len(cases))
    assert splits["split"].nunique() == protocol.get("n_splits", 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_order_of_the_table_does_not_matter_but_the_seed_does(protocol):
    cases = cohort()
    splits = draw(cases, protocol)
    pd.testing.assert_frame_equal(draw(cases.sample(frac=1, random_state=3), protocol), splits)
    assert not draw(cases, {**protocol, "seed": 8}).equals(splits)


def test_the_first_split_is_what_it_has_always_been():
    # Frozen: a change here silently changes every published number.
    splits = draw(cohort(20), {"kind": "mccv", "n_splits": 1, "test": 0.2, "seed": 1})
    assert splits.loc[splits["part"] == "test", "case_id"].tolist() == ["C-0002", "C-0006", "C-0008", "C-0014"]


def test_kfold_tests_everyone_once():
    splits = draw(cohort(), PROTOCOLS[3])
    tested = splits.loc[splits["part"] == "test", "case_id"]
    assert sorted(tested) == cohort()["case_id"].tolist()


def test_strata_give_their_share_to_every_test_part():
    cases = cohort()
    strata = strata_of(cases)
    assert strata.value_counts().drop(["0/rare", "1/rare"], errors="ignore").min() >= 10
    splits = draw(cases, MCCV).merge(cases.assign(stratum=strata))
    tested = splits[splits["part"] == "test"].groupby(["split", "stratum"]).size().unstack(fill_value=0)
    expected = 0.2 * strata.value_counts()
    assert (tested - expected[tested.columns]).abs().to_numpy().max() <= 1


def test_strata_give_their_share_to_every_validation_part():
    cases = cohort()
    strata = strata_of(cases)
    splits = draw(cases, {"kind": "mccv", "n_splits": 15, "test": 0.1, "val": 0.2, "seed": 7})
    splits = splits.merge(cases.assign(stratum=strata))
    chosen = splits[splits["part"] == "val"].groupby(["split", "stratum"]).size().unstack(fill_value=0)
    # The test part takes one case more or less of a stratum than its share, which moves the rest's share a little.
    assert (chosen - 0.2 * strata.value_counts()[chosen.columns]).abs().to_numpy().max() <= 1 + 0.2 / 0.9


def two_cohorts():
    """A large cohort, a small one of deaths of one diagnosis, and a third of six cases."""
    large = cohort(170).assign(source="gdc")
    small = cohort(33).assign(source="ivygap", event=pd.array([1] * 33, "Int8"), diagnosis="a")
    least = cohort(6).assign(source="tiny", event=pd.array([1, 0] * 3, "Int8"), diagnosis="b")
    frames = [frame.assign(case_id=frame["source"].str[0] + frame["case_id"]) for frame in (large, small, least)]
    return pd.concat(frames, ignore_index=True)


def test_every_part_has_its_share_of_every_cohort():
    cases = two_cohorts().assign(stratum=lambda cases: strata_of(cases))
    assert set(cases["stratum"]) >= {"0/gdc/a", "1/gdc/a", "1/ivygap/a"}
    drawn = draw(cases, {"kind": "mccv", "n_splits": 15, "test": 0.2, "val": 0.1, "seed": 7})
    splits = drawn.merge(cases)
    for part, share, off in (("test", 0.2, 1), ("val", 0.1, 1 + 0.1 / 0.8)):
        found = splits[splits["part"] == part].groupby(["split", "stratum"]).size().unstack(fill_value=0)
        expected = share * cases["stratum"].value_counts()
        assert (found - expected[found.columns]).abs().to_numpy().max() <= off
    cut = inner(drawn.replace("val", "train"), cases, 0.2, seed=1)
    of_ivygap = cut[cut["case_id"].str.startswith("i")].groupby("split")["part"]
    wanted = of_ivygap.apply(lambda parts: (parts == "val").sum() - 0.2 * len(parts))
    assert wanted.abs().max() <= 1


def test_what_is_rare_in_a_cohort_is_drawn_together():
    cases = two_cohorts()
    counts = strata_of(cases).value_counts()
    assert counts.drop(["0/rare", "1/rare"], errors="ignore").min() >= 10
    # Of the smallest cohort three died and three did not: too few for strata of their own.
    assert set(strata_of(cases)[cases["source"] == "tiny"]) == {"0/rare", "1/rare"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cases_without_follow_up_are_in_every_split_and_move_no_other(protocol):
    cases = cohort()
    lost = cohort(23, seed=5).assign(event=pd.array([None] * 23, "Int8"))
    lost["case_id"] = "L" + lost["case_id"]
    every = pd.concat([lost, cases], ignore_index=True)
    splits = draw(every, protocol)
    others = splits[~splits["case_id"].isin(lost["case_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, draw(cases, protocol))
    sizes = (
        splits[splits["case_id"].isin(lost["case_id"])].groupby("split")["part"].value_counts().unstack(fill_value=0)
    )
    assert (sizes.sum(axis=1) == 23).all()
    test = 1 / protocol["n_splits"] if protocol["kind"] == "kfold" else protocol["test"]
    assert (sizes["test"] - test * 23).abs().max() < 1
    if protocol.get("val"):
        assert (sizes["val"] == round(protocol["val"] * 23)).all()
    cut = inner(splits, every, 0.2, seed=1)
    assert cut["case_id"].isin(lost["case_id"]).any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_case_without_follow_up_has_a_part(protocol):
    every = cohort().assign(event=lambda cases: cases["event"].where(cases["case_id"] != "C-0007"))
    splits = draw(every, protocol | {"test": 0.6} if "test" in protocol else protocol)
    assert splits.loc[splits["case_id"] == "C-0007", "part"].isin(["train", "val", "test"]).all()
    assert (splits["case_id"] == "C-0007").sum() == protocol.get("n_splits", 1)


def test_the_source_of_a_cohort_of_one_changes_nothing():
    cases = cohort()
    for protocol in PROTOCOLS:
        pd.testing.assert_frame_equal(draw(cases.assign(source="gdc"), protocol), draw(cases, protocol))


def test_repeated_splits_reach_everyone_alike():
    # 300 draws of a fifth: each case is tested about 60 times (binomial sd 7), the few of a small stratum too.
    splits = draw(cohort(60), {**MCCV, "n_splits": 300})
    times = splits[splits["part"] == "test"]["case_id"].value_counts()
    assert len(times) == 60
    assert times.min() > 30
    assert times.max() < 90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "bootstrap"}, "unknown kind of protocol 'bootstrap'"),
        ({"test": 1.0}, "leave nothing to train on"),
        ({"test": 0.6, "val": 0.4}, "leave nothing to train on"),
        ({"kind": "kfold", "n_splits": 1}, "needs 2 to 203 n_splits"),
        ({"test": 0.001}, "split 0: the test part is empty"),
    ],
)
def test_impossible_protocols_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        draw(cohort(), {**MCCV, **change})


def frame(*rows):
    return pd.DataFrame(rows, columns=["split", "case_id", "part"])


def test_leaks_and_hopeless_parts_are_refused():
    cases = pd.DataFrame({"case_id": list("ABCD"), "event": [1, 0, 1, 0]})
    good = [(0, "A", "train"), (0, "B", "train"), (0, "C", "test"), (0, "D", "test")]
    check_splits(frame(*good), cases)
    for extra, message in [
        ((0, "A", "test"), r"split 0: case A is there more than once \(train, test\)"),
        ((0, "X", "test"), "split 0: case X is not in the case table"),
        ((1, "A", "tests"), "split 1: unknown part 'tests'"),
        ((1, "A", "train"), "split 1: the test part is empty"),
    ]:
        with pytest.raises(InputError, match=message):
            check_splits(frame(*good, extra), cases)
    censored = [(0, "A", "train"), (0, "C", "train"), (0, "B", "test"), (0, "D", "test")]
    with pytest.raises(InputError, match="split 0: all 2 cases of the test part are censored or not followed up"):
        check_splits(frame(*censored), cases)


def test_published_splits(tmp_path):
    (tmp_path / "0.csv").write_text(",train,val\n0,A,C\n1,B,D\n2,E,\n")
    (tmp_path / "1.csv").write_text("train,val,test\nA,B,C\n")
    splits = read_given([tmp_path / "0.csv", tmp_path / "1.csv"], {"E"})
    assert splits.to_numpy().tolist() == [
        [0, "A", "train"],
        [0, "B", "train"],
        [0, "C", "test"],
        [0, "D", "test"],
        [1, "A", "train"],
        [1, "B", "val"],
        [1, "C", "test"],
    ]
    (tmp_path / "2.csv").write_text("training,val\nA,B\n")
    with pytest.raises(InputError, match=r"2\.csv: a split file needs the columns train and val"):
        read_given([tmp_path / "2.csv"])
    with pytest.raises(InputError, match="no split files"):
        read_given([])


def test_published_files_come_in_the_order_of_their_numbers():
    receipt = pd.DataFrame(
        {
            "kind": ["table", *["splits"] * 4],
            "file_id": ["table", "five/10", "five/2", "fivefold/0", "five/0"],
            "path": ["t", "ten", "two", "other", "zero"],
        }
    )
    assert given_files(receipt, "five") == ["zero", "two", "ten"]


@pytest.mark.skipif(not FOLDS.exists(), reason="the published folds are not in ../shared/mirror")
def test_the_real_folds_partition_the_cohort():
    splits = read_given([FOLDS / f"splits_{k}.csv" for k in range(5)])
    tested = splits.loc[splits["part"] == "test", "case_id"]
    assert len(tested) == tested.nunique() == splits["case_id"].nunique() == 569


def test_inner_parts_hold_every_training_case_once_and_no_test_case():
    cases, splits = cohort(), draw(cohort(), MCCV)
    cut = inner(splits, cases, 0.2, seed=1)
    for number, rows in cut.groupby("split"):
        train = splits.loc[(splits["split"] == number) & (splits["part"] == "train"), "case_id"]
        assert sorted(rows["case_id"]) == sorted(train)
        val = rows.loc[rows["part"] == "val", "case_id"]
        assert len(val) == round(0.2 * len(train))
        shares = [cases.set_index("case_id").loc[ids, "event"].mean() for ids in (val, train)]
        assert abs(shares[0] - shares[1]) < 0.05
    assert cut.equals(inner(splits.sample(frac=1, random_state=0), cases, 0.2, seed=1))
    assert not cut.equals(inner(splits, cases, 0.2, seed=2))


def test_a_split_with_a_validation_part_keeps_it_as_its_inner_one():
    cases, splits = cohort(), draw(cohort(), {"kind": "holdout", "test": 0.1, "val": 0.1, "seed": 7})
    expected = splits[splits["part"] != "test"].reset_index(drop=True)
    assert inner(splits, cases, 0.3, seed=1).equals(expected)


def test_inner_parts_are_of_the_cases_that_take_part():
    cases, splits = cohort(), draw(cohort(), MCCV)
    few = cases.iloc[::3]
    cut = inner(splits, few, 0.2, seed=1)
    assert set(cut["case_id"]) <= set(few["case_id"])


def test_too_few_training_cases_are_not_cut():
    splits = pd.DataFrame({"split": 4, "case_id": ["C-0000", "C-0001"], "part": ["train", "test"]})
    with pytest.raises(InputError, match="split 4: 1 training cases cannot be cut in two with a share of 0\\.2"):
        inner(splits, cohort(), 0.2, seed=1)

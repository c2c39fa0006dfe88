"""Tables: the fixed columns, which runs land in which row, and rows that could not be run."""

import numpy as np
import pandas as pd
import pytest
from paper_examples import ENTRY, MISSING, PUBLISHED, external_metrics, metrics

from histofuse.evaluation.summary import PAIRED_T
from histofuse.io import InputError, read_table, write_table
from histofuse.paper.tables import COLUMNS, build_table, check_published, summarise_rows, unavailable_rows

FIXED = (
    "table, row, cohort, task, metric, estimate, ci_low, ci_high, n_splits, n_seeds, published, published_ci, "
    "p_value, p_adjusted, reference_row"
)


def build(entry=ENTRY, frame=None, **options):
    frame = metrics() if frame is None else frame
    options = {"published": PUBLISHED, "unavailable": MISSING, "name": "main"} | options
    return build_table(entry, summarise_rows(entry, frame), **options).set_index(["row", "metric"])


def test_the_fixed_columns_come_first():
    table = build().reset_index()
    assert COLUMNS[:15] == FIXED.split(", ")
    assert set(table.columns) == set(COLUMNS)
    assert list(table["metric"]) == ["harrell_c", "uno_c"] * 3
    assert list(table["row"].unique()) == ["Clinical", "SNN", "Ours"]


def test_a_row_takes_its_own_runs_and_the_seeds_of_the_entry():
    frame = metrics()
    row = build().loc["SNN", "harrell_c"]
    mine = frame[(frame["model"] == "snn") & (frame["metric"] == "harrell_c") & (frame["seed"] < 2)]
    assert row["estimate"] == pytest.approx(mine["value"].mean())
    assert (row["n_splits"], row["n_seeds"], row["status"]) == (5, 2, "run")
    assert row["ci_low"] < row["estimate"] - row["half_width_t"] < row["estimate"]
    assert np.isfinite(row["p_value"])
    assert np.isnan(build().loc["Clinical", "harrell_c"]["p_value"])


def test_a_row_may_have_its_own_seeds():
    rows = [{**row, "seeds": [2]} if row["label"] == "SNN" else row for row in ENTRY["rows"]]
    table = build({**ENTRY, "rows": rows})
    assert table["n_seeds"].tolist() == [2, 2, 1, 1, 0, 0]
    frame = metrics()
    mine = frame[(frame["model"] == "snn") & (frame["metric"] == "harrell_c") & (frame["seed"] == 2)]
    assert table.loc[("SNN", "harrell_c"), "estimate"] == pytest.approx(mine["value"].mean())


def test_spread_over_seeds_and_the_statistic_of_the_test_stand_in_the_table():
    frame, table = metrics(), build()
    mine = frame[(frame["metric"] == "harrell_c") & (frame["seed"] < 2)].set_index(["split", "seed"])
    ours, theirs = (mine[mine["model"] == model]["value"] for model in ("snn", "cox"))
    row = table.loc["SNN", "harrell_c"]
    assert row["seed_sd"] == pytest.approx(np.sqrt(ours.groupby("split").var().mean()))
    difference = (ours - theirs).groupby("split").mean()
    assert row["t"] == pytest.approx(difference.mean() / (difference.std() * np.sqrt(1 / 5 + 20 / 80)))
    assert row["test"] == PAIRED_T
    assert table.loc["Clinical", "harrell_c"]["test"] == ""
    assert table.loc["Ours", ["seed_sd", "t"]].isna().all(axis=None)


def test_a_row_without_seeds_takes_those_there_are():
    """As released predictions have a seed of their own, beside rows with other ones."""
    frame = pd.concat([metrics(models=["cox"], seeds=[1, 2, 3]), metrics(models=["snn"], seeds=[0])])
    rows = [row | ({"seeds": None} if row["label"] == "SNN" else {}) for row in ENTRY["rows"]]
    table = build({**ENTRY, "seeds": [1, 2, 3], "rows": rows}, frame)
    assert table["n_seeds"].tolist() == [3, 3, 1, 1, 0, 0]
    assert table.loc[("SNN", "harrell_c"), "p_value"] > 0


def test_labels_stand_beside_the_names_of_cohorts_and_tasks():
    rows = [{"label": "Own", "model": "cox"}, {"label": "Elsewhere", "model": "cox", "scored_on": "cptac"}]
    frame = pd.concat([metrics(), external_metrics()], ignore_index=True).fillna({"scored_on": ""})
    labels = {"cohort": {"glioma": "TCGA-GBMLGG", "cptac": "CPTAC-GBM"}, "task": {}}
    table = build({**ENTRY, "rows": rows, "reference_row": "Own"}, frame, unavailable={}, labels=labels)
    shown = table.xs("harrell_c", level="metric")[["cohort_label", "task_label", "scored_on_label"]]
    assert shown.to_numpy().tolist() == [["TCGA-GBMLGG", "survival", ""], ["TCGA-GBMLGG", "survival", "CPTAC-GBM"]]
    assert set(table["cohort"]) == {"glioma"}


def test_a_row_that_was_not_run_keeps_its_published_figure():
    row = build().loc["Ours", "harrell_c"]
    assert row["status"] == f"not run: {MISSING['Ours']}"
    assert row["published"] == 0.848
    assert np.isnan(row["estimate"])
    assert (row["n_splits"], row["n_seeds"]) == (0, 0)


def test_rows_of_a_cohort_that_cannot_be_had():
    entry = {**ENTRY, "rows": [*ENTRY["rows"], {"label": "Kidney", "model": "cox", "cohort": "kirc"}]}
    reasons = {"kirc": "its table is not in the mirror"}
    assert unavailable_rows(entry, reasons) == {"Kidney": "its table is not in the mirror"}
    assert list(unavailable_rows(ENTRY, {"glioma": "no network"})) == ["Clinical", "SNN", "Ours"]


def test_a_row_without_runs_and_without_a_reason_is_refused():
    with pytest.raises(InputError, match="row 'Ours' has no harrell_c of model ours on glioma"):
        build(unavailable={})


def test_a_table_in_which_nothing_could_be_run():
    reasons = dict.fromkeys(["Clinical", "SNN", "Ours"], "its table is not in the mirror")
    table = build(frame=metrics().head(0), unavailable=reasons)
    assert table["status"].eq("not run: its table is not in the mirror").all()
    assert table["estimate"].isna().all()


def test_a_simulated_cohort_is_never_beside_published_figures():
    table = build(simulated=True)
    assert table[["published", "published_ci"]].isna().all(axis=None)


def test_a_row_of_another_task_and_cohort():
    other = {"label": "Kidney", "model": "cox", "cohort": "kirc", "protocol": "mccv15"}
    entry = {**ENTRY, "rows": [*ENTRY["rows"], other]}
    kidney = metrics(models=["cox"]).assign(cohort="kirc", protocol="mccv15")
    row = build(entry, pd.concat([metrics(), kidney])).loc["Kidney", "harrell_c"]
    assert (row["cohort"], row["protocol"], row["task"]) == ("kirc", "mccv15", "survival")
    assert np.isnan(row["p_value"])


def test_splits_left_out_are_told():
    frame = metrics()
    gone = (frame["model"] == "snn") & (frame["split"] == 2)
    frame.loc[gone, ["value", "note"]] = [np.nan, "no event"]
    row = build(frame=frame).loc["SNN", "harrell_c"]
    assert row["note"] == "1 of 5 splits left out: no event"
    assert row["n_splits"] == 4


def test_the_ratio_of_test_to_train_comes_from_the_entry():
    frame = metrics().assign(n_train=0)
    assert np.isnan(build(frame=frame).loc["SNN", "harrell_c"]["ci_low"])
    assert np.isfinite(build({**ENTRY, "test_to_train": 0.25}, frame).loc["SNN", "harrell_c"]["ci_low"])


def test_rows_of_one_model_on_its_own_and_on_another_cohort():
    rows = [{"label": "Own", "model": "cox"}, {"label": "Elsewhere", "model": "cox", "scored_on": "cptac"}]
    entry = {**ENTRY, "rows": rows, "reference_row": "Own"}
    frame = pd.concat([metrics(), external_metrics().assign(value=0.6)], ignore_index=True).fillna({"scored_on": ""})
    table = build(entry, frame, unavailable={})
    assert COLUMNS[-1] == "scored_on"
    assert table["scored_on"].tolist() == ["", "", "cptac", "cptac"]
    assert table.loc["Elsewhere", "harrell_c"]["estimate"] == pytest.approx(0.6)
    assert table.loc["Own", "harrell_c"]["estimate"] > 0.7
    assert table["n_external"].tolist() == [0, 0, 31, 31]
    assert table["p_value"].isna().all()
    assert unavailable_rows(entry, {"cptac": "no network"}) == {"Elsewhere": "no network"}
    assert unavailable_rows(entry, {"glioma": "not fetched", "cptac": "no network"}) == {
        "Own": "not fetched",
        "Elsewhere": "not fetched; no network",
    }


def test_same_after_a_round_through_csv(tmp_path):
    table = build().reset_index()[COLUMNS]
    write_table(table, tmp_path / "table.csv")
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "table.csv", float_precision="round_trip", keep_default_na=True).fillna(
            dict.fromkeys(["note", "test", "scored_on", "scored_on_label"], "")
        ),
        table,
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reference_row": "clinical"}, "'clinical' is no row"),
        ({"rows": ENTRY["rows"] + ENTRY["rows"][:1]}, "more than once: Clinical"),
        ({"rows": [{**ENTRY["rows"][0], "published": "SCNN"}]}, "nothing published as 'SCNN'"),
    ],
)
def test_wrong_entries_are_refused(change, reason):
    with pytest.raises(InputError, match=reason):
        build({**ENTRY, **change})


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (PUBLISHED.drop(columns="metric"), "x.csv: lacks the column metric"),
        (PUBLISHED.assign(published=84.8), "row 'Genomic SNN' has published = 84.8"),
        (PUBLISHED.assign(published="0.8 ± 0.1"), "needed: a fraction"),
        (pd.concat([PUBLISHED, PUBLISHED]), "harrell_c of survival more than once"),
    ],
)
def test_wrong_published_figures_are_refused(frame, reason):
    with pytest.raises(InputError, match=reason):
        check_published(frame, "x.csv")

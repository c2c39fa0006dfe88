"""The published-table adapter: on a table made here with every oddity of its kind, and on the real one."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.cohort.cases import check_cases, with_defaults
from histofuse.io import InputError
from histofuse.sources.manifest import check_manifest
from histofuse.sources.published_tables import manifest, read_table_zip

REPOSITORY = Path(
    "../shared/mirror/raw.githubusercontent.com/mahmoodlab/PORPOISE/3390dc40e15995ba852d7a561faf0e996cf20501"
)
needs_real_table = pytest.mark.skipif(
    not REPOSITORY.exists(), reason="the published TCGA-GBMLGG table is not in ../shared/mirror"
)


def kirc_like(**changes):
    """Four slides of three patients, as the kidney table has them: no oncotree_code, one sex missing, tied times."""
    frame = pd.DataFrame(
        {
            "Unnamed: 0": range(4),
            "case_id": ["K-2", "K-1", "K-1", "K-3"],
            "slide_id": ["K-2-DX1.svs", "K-1-DX2.svs", "K-1-DX1.svs", "K-3-DX1.svs"],
            "age": [60, 50, 50, 70],
            "site": ["A", "B", "B", "C"],
            "survival_months": [12.0, 24.0, 24.0, 12.0],
            "censorship": [0, 1, 1, 0],
            "is_female": [1.0, 0.0, 0.0, np.nan],
            "train": [1.0] * 4,
            "VHL_rnaseq": [0.5, -0.25, -0.25, 3515.0],
            "XIST_rnaseq": [0.0] * 4,
            "VHL_cnv": [-2, 0, 0, 1],
            "VHL_mut": [1, 0, 0, 1],
        }
    )
    return frame.assign(**changes)


def zipped(frame, path, name="table.csv"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, frame.to_csv(index=False))
        archive.writestr(f"__MACOSX/._{name}", "resource fork")
    return path


def test_slides_become_patients(tmp_path):
    table = read_table_zip(zipped(kirc_like(), tmp_path / "t.zip"))
    cases = table.cases.set_index("case_id")
    assert cases.index.tolist() == ["K-1", "K-2", "K-3"]
    assert cases["slides"].tolist() == [["K-1-DX1", "K-1-DX2"], ["K-2-DX1"], ["K-3-DX1"]]
    assert cases["time_days"].tolist() == [730.5, 365.25, 365.25]  # two years and one, in days
    assert cases["event"].tolist() == [0, 1, 1]  # censorship 1 means alive
    assert cases["sex"].tolist()[:2] == ["male", "female"]
    assert cases["sex"].isna().tolist() == [False, False, True]
    assert cases["diagnosis"].isna().all()
    assert table.expression.columns.tolist() == ["case_id", "VHL", "XIST"]
    assert table.expression["VHL"].tolist() == [-0.25, 0.5, 3515.0]
    assert table.alterations.to_dict("list") == {
        "case_id": ["K-1", "K-2", "K-3"],
        "VHL_cnv": [0, -2, 1],
        "VHL_mut": [0, 1, 1],
    }
    assert table.expression["VHL"].dtype == table.alterations["VHL_cnv"].dtype == np.float32
    assert table.report["constant"] == ["XIST_rnaseq"]
    assert table.report["ignored_columns"] == []


def test_the_cases_meet_the_contract(tmp_path):
    table = read_table_zip(zipped(kirc_like(censorship=[0, 1, 1, np.nan]), tmp_path / "t.zip"))
    frame = with_defaults(table.cases, source="t", has_expression=True, has_alterations=True, has_slides=False)
    cases, excluded = check_cases(frame, "t")
    assert cases["case_id"].tolist() == ["K-1", "K-2", "K-3"]
    assert cases["event"].isna().tolist() == [False, False, True]
    assert excluded["case_id"].tolist() == ["K-3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"VHL_rnaseq": [0.5, -0.25, -0.25, np.nan]}, "column VHL_rnaseq, case K-3"),
        ({"VHL_cnv": ["-2", "0", "0", "low"]}, "column VHL_cnv, case K-3: low is not a finite number"),
        ({"VHL_mut": [np.inf, 0, 0, 1]}, "column VHL_mut, case K-2"),
        ({"VHL_rnaseq": [0.5, -0.25, -0.5, 1.0]}, "case K-1: its slide rows disagree in column VHL_rnaseq"),
        ({"survival_months": [12.0, 24.0, 25.0, 12.0]}, "case K-1: .* survival_months"),
        ({"censorship": [0, 1, 1, 2]}, "column censorship, case K-3: .* neither 0 nor 1"),
        ({"is_female": [1, 0, 0, 3]}, "column is_female, case K-3"),
    ],
)
def test_bad_values_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_table_zip(zipped(kirc_like(**changes), tmp_path / "t.zip"))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"t\.zip: the column\(s\) censorship are missing"):
        read_table_zip(zipped(kirc_like().drop(columns="censorship"), tmp_path / "t.zip"))
    (tmp_path / "page.zip").write_text("<html></html>")
    with pytest.raises(InputError, match=r"page\.zip: not a zipped CSV"):
        read_table_zip(tmp_path / "page.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(InputError, match="expected one table in the archive, found 2"):
        read_table_zip(tmp_path / "two.zip")


def test_the_manifest_names_the_table_and_its_splits():
    url = "https://data.example.org/x"
    settings = {
        "table": {"url": f"{url}/kirc.csv.zip", "sha256": "0" * 64},
        "splits": {name: [{"url": f"{url}/splits_{k}.csv", "sha256": "1" * 64} for k in range(2)] for name in "ab"},
    }
    frame = manifest(settings)
    check_manifest(frame, "m")
    assert frame["file_id"].tolist() == ["table", "a/0", "a/1", "b/0", "b/1"]
    assert frame["filename"].tolist() == ["kirc.csv.zip", "a.0.csv", "a.1.csv", "b.0.csv", "b.1.csv"]
    assert len(manifest({"table": settings["table"]})) == 1


@needs_real_table
def test_the_real_table():
    table = read_table_zip(REPOSITORY / "datasets_csv_mutsig" / "tcga_gbmlgg_all_clean.csv.zip")
    assert table.report == {
        "rows": 1011,
        "cases": 569,
        "expression": 1544,
        "alterations": 46,
        "constant": [],
        "ignored_columns": [],
    }
    assert table.cases["event"].sum() == 187
    assert table.cases["diagnosis"].value_counts().to_dict() == {
        "OAST": 128,
        "AASTR": 121,
        "ODG": 101,
        "GBM": 90,
        "AOAST": 71,
        "ASTR": 58,
    }
    assert table.cases["slides"].map(len).sum() == 1011
    assert table.expression.drop(columns="case_id").to_numpy().max() == pytest.approx(3515, abs=1)

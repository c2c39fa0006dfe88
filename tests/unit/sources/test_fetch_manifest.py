"""Manifests come from outside: nothing in them may reach the disk unchecked."""

import pandas as pd
import pytest

from histofuse.io import InputError, write_table
from histofuse.sources.manifest import assign_batches, check_manifest, empty_manifest, read_manifest


def table(*rows):
    first = {
        "file_id": "1",
        "case_id": "C-1",
        "kind": "slide",
        "filename": "one.svs",
        "url": "https://data.example.org/1",
        "size": "10",
        "md5": "0" * 32,
        "sha256": "",
        "mpp": "",
        "batch": "",
    }
    return pd.DataFrame([{**first, **row} for row in rows])


def test_a_good_manifest_survives_the_disk(tmp_path):
    frame = table({}, {"file_id": "2", "filename": "two.svs", "size": "", "md5": ""})
    write_table(frame, tmp_path / "manifest.tsv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.tsv"), frame)
    write_table(frame.drop(columns="batch"), tmp_path / "unbatched.tsv")
    assert len(read_manifest(tmp_path / "unbatched.tsv", batched=False)) == 2
    with pytest.raises(InputError, match=r"unbatched\.tsv.*batch"):
        read_manifest(tmp_path / "unbatched.tsv")


@pytest.mark.parametrize(
    "name", ["../up.svs", "/etc/passwd", "a/b.svs", "a\\b.svs", "", "..", ".hidden", "C:evil", "a\nb", " a.svs"]
)
def test_names_that_climb_out_are_refused(name):
    with pytest.raises(InputError, match=r"m\.tsv, row 2 .*could land outside its folder"):
        check_manifest(table({}, {"file_id": "2", "filename": name}), "m.tsv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "../slide"}, "unknown kind"),
        ({"url": "file:///etc/passwd"}, "not an http"),
        ({"url": "https:///nohost"}, "not an http"),
        ({"size": "-1"}, "whole number of bytes"),
        ({"size": "big"}, "whole number of bytes"),
        ({"md5": "xyz"}, "32 hexadecimal digits"),
        ({"sha256": "0" * 63}, "64 hexadecimal digits"),
        ({"file_id": ""}, "empty file_id"),
        ({"mpp": "0"}, r"the resolution mpp '0' is not a positive number"),
        ({"mpp": "inf"}, "not a positive number"),
        ({"mpp": "half"}, "not a positive number"),
    ],
)
def test_other_bad_rows_are_named(change, message):
    with pytest.raises(InputError, match=rf"m\.tsv, row 1 .*{message}"):
        check_manifest(table(change), "m.tsv")


def test_the_resolution_is_optional(tmp_path):
    write_table(table({}).drop(columns="mpp"), tmp_path / "manifest.tsv")
    assert read_manifest(tmp_path / "manifest.tsv")["mpp"].tolist() == [""]
    write_table(table({"mpp": "0.4990"}), tmp_path / "manifest.tsv")
    assert read_manifest(tmp_path / "manifest.tsv")["mpp"].tolist() == ["0.4990"]


def test_two_rows_must_not_be_one_file():
    with pytest.raises(InputError, match="rows 1, 2: the same file_id twice"):
        check_manifest(table({}, {"filename": "two.svs"}), "m.tsv")
    with pytest.raises(InputError, match="rows 1, 2: the same kind and filename twice"):
        check_manifest(table({}, {"file_id": "2"}), "m.tsv")


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match=r"lacks the column\(s\) url, md5"):
        check_manifest(table({}).drop(columns=["url", "md5"]), "m.tsv")


def test_batches_are_the_same_whatever_the_order_of_rows():
    rows = [{"file_id": str(n), "filename": f"{n}.svs"} for n in range(5)]
    rows.append({"file_id": "x", "filename": "x.zip", "kind": "table"})
    frame = assign_batches(table(*rows), {"slide": 2})
    assert frame["batch"].tolist() == ["slide-000", "slide-000", "slide-001", "slide-001", "slide-002", "table-000"]
    pd.testing.assert_frame_equal(assign_batches(table(*rows[::-1]), {"slide": 2}), frame)
    # Slides are big, one job each; the other kinds are small, one job for all.
    default = assign_batches(table(*rows, {"file_id": "y", "filename": "y.zip", "kind": "table"}), {})
    assert default["batch"].tolist() == [*(f"slide-00{n}" for n in range(5)), "table-000", "table-000"]


def test_an_empty_manifest_passes_through(tmp_path):
    write_table(assign_batches(empty_manifest(), {}), tmp_path / "manifest.tsv")
    assert read_manifest(tmp_path / "manifest.tsv").empty

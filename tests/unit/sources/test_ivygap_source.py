"""IvyGAP's files: what is listed, and tables that are not what their address promises."""

from pathlib import Path

import pytest

from histofuse.io import InputError
from histofuse.sources.ivygap import FILES, manifest, read_details
from histofuse.sources.manifest import assign_batches, check_manifest

SUB_BLOCKS = Path(
    "../shared/mirror/raw.githubusercontent.com/vjcitn/ivygapSEOLD/6c0bd004c9e1e14a2837fb35fdf588d9947c1956/inst/CSV/"
    "sub_block_details.csv"
)
needs_real_table = pytest.mark.skipif(not SUB_BLOCKS.exists(), reason="IvyGAP's sub-blocks are not in ../shared/mirror")


def test_the_manifest_names_four_files_of_the_portal():
    frame = manifest({"source": "ivygap"})
    check_manifest(frame, "ivygap")
    assert frame["kind"].tolist() == list(FILES)
    assert (frame[["size", "md5", "sha256", "case_id"]] == "").all(axis=None)  # the portal publishes none
    assert frame["url"].str.startswith("https://glioblastoma.alleninstitute.org/api/v2/").all()
    assert assign_batches(frame, {})["batch"].is_unique


def test_files_can_be_pinned():
    pin = {"url": "https://example.org/matrix.zip", "sha256": "0" * 64}
    frame = manifest({"files": {"ivygap_expression": pin}}).set_index("kind")
    assert frame.loc["ivygap_expression", ["url", "sha256"]].tolist() == list(pin.values())
    assert frame.loc["ivygap_tumors", "url"] == FILES["ivygap_tumors"][1]
    with pytest.raises(InputError, match="files: 'ivygap_slides' is not a file of IvyGAP; there are ivygap_expression"):
        manifest({"files": {"ivygap_slides": pin}})
    with pytest.raises(InputError, match="files: ivygap_tumors: 'sha1' is not one of md5, sha256, size, url"):
        manifest({"files": {"ivygap_tumors": {"sha1": "0"}}})


def test_cells_stay_text(tmp_path):
    path = tmp_path / "tumor_details.csv"
    path.write_bytes(
        '\ufefftumor_name,molecular_subtype,survival_days\nW1-1-2,"Classical, Neural", 105\nW9-1-1,NA,\n'.encode()
    )
    table = read_details(path)
    assert table.columns.tolist() == ["tumor_name", "molecular_subtype", "survival_days"]
    assert table.loc[1].tolist() == ["W9-1-1", "NA", ""]
    assert table.loc[0, "survival_days"] == "105"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<!DOCTYPE html><html><style>a,b\nc,d</style></html>",
            r"holds a web page \(HTML\).*status 200.*/api/v2/gbm/",
        ),
        (b"\xef\xbb\xbf\n  <html>\n", "holds a web page"),
        (b"", "cannot be read as a CSV table"),
        (b"tumor_name,survival_days\n", "holds no table"),
        (b"nothing to see here\nat all\n", "holds no table"),
        (b"a,b\n1,2\n1,2,3\n", "cannot be read as a CSV table"),
        (b"a,b\n\xff\xfe,2\n", "cannot be read as a CSV table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    path = tmp_path / "details.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"details\.csv: .*{message}|details\.csv: {message}"):
        read_details(path)


@needs_real_table
def test_the_real_sub_blocks():
    table = read_details(SUB_BLOCKS)
    assert len(table) == 946
    assert table["tumor_name"].nunique() == 42
    assert table["sub_block_name"].is_unique

"""IvyGAP's files: what is listed, and tables that are not what their address promises."""

import http.server
import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from histofuse.io import InputError
from histofuse.sources.fetch import Unavailable
from histofuse.sources.ivygap import FILES, image_rows, manifest, read_details
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


def section(number, place, **values):
    return {"id": number, "resolution": 0.5, "section_number": place, "failed": False, **values}


def data_set(name, *images):
    return {"id": 1, "specimen": {"external_specimen_name": name}, "sub_images": list(images)}


def listed(*data_sets, **values):
    """An RMA answer as the Allen Institute documents it."""
    return {"success": True, "id": 0, "start_row": 0, "total_rows": len(data_sets), "msg": list(data_sets), **values}


TWO_SUB_BLOCKS = listed(
    data_set("W22-1-1-B.2.01", *(section(100 + k, 50 - 4 * k) for k in range(5))),
    data_set("W2-1-1-A.1.03", section(7, 3, resolution=0.4980), section(8, 1, failed=True)),
)


def test_one_image_of_a_sub_block_is_taken_from_its_middle():
    first, second = image_rows(TWO_SUB_BLOCKS, 1)
    assert first == {
        "file_id": "7",
        "case_id": "W2-1-1",
        "kind": "slide",
        "filename": "W2-1-1-A.1.03_7.jpg",
        "url": "https://api.brain-map.org/api/v2/image_download/7",
        "mpp": "0.498",
    }
    assert (second["file_id"], second["case_id"]) == ("102", "W22-1-1")
    # Two of five, in the order of the sections and not of the list; more than there are is all.
    assert [row["file_id"] for row in image_rows(TWO_SUB_BLOCKS, 2)] == ["7", "103", "101"]
    assert len(image_rows(TWO_SUB_BLOCKS, 50)) == 6


def test_several_data_sets_of_a_sub_block_are_one():
    twice = listed(data_set("W1-1-1-A.1.01", section(1, 1)), data_set("W1-1-1-A.1.01", section(2, 5), section(1, 1)))
    assert [row["file_id"] for row in image_rows(twice, 9)] == ["1", "2"]


def test_odd_images_are_told_apart(capsys):
    unknown = [section(1, 1, resolution=None), section(2, 5, resolution=0.0), section(3, None)]
    rows = image_rows(listed(data_set("W1-1-1-A.1.01", *unknown), data_set("H0351.2001", section(9, 1))), 9)
    assert [(row["file_id"], row["mpp"]) for row in rows] == [("3", "0.5"), ("1", ""), ("2", "")]
    assert "1 data sets of specimens that are no sub-blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "the answer has no `msg`"),
        ({"success": True}, "the answer has no `msg`"),
        ({"success": False, "msg": "unknown model SectionDataset"}, "reports a failure: unknown model"),
        ({"success": True, "msg": "no rows"}, "reports a failure: no rows"),
        (listed(data_set("W1-1-1-A.1.01", section(1, 1)), total_rows=50), "1 of 50 data sets were listed"),
        (listed(), "lists no H&E image of a tumour"),
        (listed(data_set("W1-1-1-A.1.01", section(1, 1, failed=True))), "lists no H&E image of a tumour"),
        (listed({"sub_images": []}), "a data set has no usable 'specimen'"),
        (listed(data_set(None)), "a specimen has no usable 'external_specimen_name'"),
        (listed({"specimen": {"external_specimen_name": "W1-1-1-A.1.01"}}), "data set of W1-1-1-A.1.01 .*'sub_images'"),
        (listed(data_set("W1-1-1-A.1.01", {"resolution": 0.5})), "an image of W1-1-1-A.1.01 has no usable 'id'"),
        (listed(data_set("W1-1-1-A.1.01", "image")), "an image of W1-1-1-A.1.01 has no usable 'id'"),
    ],
)
def test_a_list_of_images_that_is_none_is_refused(answer, message):
    with pytest.raises(InputError, match=message):
        image_rows(answer, 1)


class Atlas(http.server.BaseHTTPRequestHandler):
    """A mirror over HTTP; `content` is its answer, and `asked` holds the paths."""

    content: bytes
    status = 200
    asked: list

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


@pytest.fixture
def atlas():
    handler = type("Handler", (Atlas,), {"asked": [], "content": json.dumps(TWO_SUB_BLOCKS).encode()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        handler.address = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


def test_images_are_asked_for_only_where_slides_are_wanted(atlas):
    assert set(manifest({"slides": False}, atlas.address)["kind"]) == set(FILES)
    assert atlas.asked == []
    frame = manifest({"slides": True, "slides_per_sub_block": 3}, atlas.address)
    check_manifest(frame, "ivygap")
    assert atlas.asked == ["/api.brain-map.org/api/v2/data/query.json"]
    slides = frame[frame["kind"] == "slide"]
    assert slides["mpp"].tolist() == ["0.498", "0.5", "0.5", "0.5"]
    assert (frame[frame["kind"] != "slide"]["mpp"] == "").all()


def test_the_question_is_one_address(atlas, monkeypatch):
    monkeypatch.setattr("histofuse.sources.ivygap.ATLAS", f"{atlas.address}/api/v2")
    manifest({"slides": True})
    (path,) = atlas.asked
    assert urlsplit(path).path == "/api/v2/data/query.json"
    (criteria,) = parse_qs(urlsplit(path).query)["criteria"]
    assert criteria.startswith("model::SectionDataSet,rma::criteria,[failed$eqfalse],products[name$eq'Glioblastoma'],")
    assert "treatments[name$eq'H&E']" in criteria
    assert criteria.endswith("rma::include,specimen,sub_images,rma::options[num_rows$eqall]")


@pytest.mark.parametrize(
    ("status", "content", "error", "message"),
    [
        (200, b"<html>Moved</html>", InputError, r"query\.json did not answer JSON"),
        (200, b"", InputError, "did not answer JSON"),
        (404, b"", InputError, "refuses the question: 404"),
        (503, b"", Unavailable, "answers 503"),
    ],
)
def test_an_atlas_that_does_not_answer(atlas, monkeypatch, status, content, error, message):
    monkeypatch.setattr("histofuse.sources.fetch.PAUSE", 0)
    atlas.status, atlas.content = status, content
    with pytest.raises(error, match=message):
        manifest({"slides": True}, atlas.address)
    with pytest.raises(Unavailable, match="cannot be reached"):
        manifest({"slides": True}, "http://127.0.0.1:9", timeout=2)


def test_a_mirror_folder_may_hold_the_list(tmp_path):
    path = tmp_path / "api.brain-map.org/api/v2/data/query.json"
    with pytest.raises(Unavailable, match=r"api/v2/data/query\.json is not in the mirror") as caught:
        manifest({"slides": True}, str(tmp_path))
    assert caught.value.awaits == path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(TWO_SUB_BLOCKS))
    assert (manifest({"slides": True}, str(tmp_path))["kind"] == "slide").sum() == 2
    path.write_text("<html>")
    with pytest.raises(
        InputError, match=r"query\.json: holds no JSON .*save the answer of https://api\.brain-map\.org"
    ):
        manifest({"slides": True}, str(tmp_path))


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

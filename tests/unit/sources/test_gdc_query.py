"""The GDC query against a server on this machine that answers as the GDC documents it."""

import http.server
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from histofuse.io import InputError, write_table
from histofuse.sources.gdc import KINDS, Unavailable, pinned_manifest, query_manifest
from histofuse.sources.manifest import COLUMNS, check_manifest


def hit(number, case, sample="01A", sample_type="Primary Tumor", suffix="tsv"):
    return {
        "file_id": f"id-{number}",
        "file_name": f"file{number}.{suffix}",
        "file_size": 100 + number,
        "md5sum": f"{number:032x}",
        "cases": [
            {"submitter_id": case, "samples": [{"submitter_id": f"{case}-{sample}", "sample_type": sample_type}]}
        ],
    }


FILES = {
    "Gene Expression Quantification": [
        hit(1, "T-2"),
        hit(2, "T-1", "01B"),
        hit(3, "T-1", "01A"),
        hit(4, "T-3", "02A", "Recurrent Tumor"),
    ],
    "Masked Somatic Mutation": [
        hit(5, "T-1", suffix="maf.gz"),
        {**hit(9, "T-2", suffix="maf.gz"), "cases": [{"submitter_id": "T-2"}, {"submitter_id": "T-3"}]},
    ],
    "Gene Level Copy Number": [],
    "Slide Image": [hit(6, "T-1", suffix="svs"), hit(7, "T-1", suffix="svs"), hit(8, "T-4", suffix="svs")],
}


class Gdc(http.server.BaseHTTPRequestHandler):
    asked: list  # one per test, set by the fixture
    broken = ""

    def log_message(self, *arguments):
        pass

    def answer(self, value, status=200):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        assert self.path == "/api.gdc.cancer.gov/status"
        if self.broken == "busy":
            return self.send_error(503)
        self.answer(b"<html>" if self.broken == "html" else {"data_release": "Data Release 45.0"})

    def do_POST(self):
        assert self.path == "/api.gdc.cancer.gov/files"
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(question)
        if self.broken == "refuses":
            return self.send_error(400, "Bad Request")
        conditions = {c["content"]["field"]: c["content"]["value"] for c in question["filters"]["content"]}
        hits = FILES[conditions["data_type"][0]]
        page = hits[question["from"] : question["from"] + question["size"]]
        if self.broken == "short":
            page = []
        self.answer({"data": {"hits": page, "pagination": {"total": len(hits)}}})


@pytest.fixture
def gdc():
    handler = type("Handler", (Gdc,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        handler.address = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


SETTINGS = {
    "projects": ["TCGA-GBM", "TCGA-LGG"],
    "kinds": ["expression", "mutations", "slide"],
    "cbioportal_study": "lgggbm_tcga_pub",
}


def test_all_pages_become_one_manifest(gdc):
    frame, release = query_manifest(SETTINGS, gdc.address, page=2)
    check_manifest(frame, "m")
    assert release == "Data Release 45.0"
    expression = frame[frame["kind"] == "expression"]
    # One file a case, the primary tumour's; of two samples the one that sorts first; recurrences are left out.
    assert expression["file_id"].tolist() == ["id-3", "id-1"]
    assert expression["case_id"].tolist() == ["T-1", "T-2"]
    assert frame[frame["kind"] == "slide"]["case_id"].tolist() == ["T-1", "T-1", "T-4"]
    first = expression.iloc[0]
    assert first[["url", "size", "md5", "filename"]].tolist() == [
        "https://api.gdc.cancer.gov/data/id-3",
        "103",
        f"{3:032x}",
        "file3.tsv",
    ]
    assert frame["kind"].value_counts().to_dict() == {
        "slide": 3,
        "expression": 2,
        "molecular": 2,
        "mutations": 1,
        "clinical": 1,
    }
    assert frame.loc[frame["kind"] == "clinical", "url"].item().startswith("https://api.gdc.cancer.gov/cases?filters=")
    assert [q["from"] for q in gdc.asked] == [0, 2, 0, 0, 2]


def test_a_file_of_several_cases_is_left_out_and_named(gdc, capsys):
    frame, _ = query_manifest(SETTINGS, gdc.address)
    assert frame.loc[frame["kind"] == "mutations", "file_id"].tolist() == ["id-5"]
    assert "1 mutations files that are not of one case were left out: id-9" in capsys.readouterr().out


def test_a_kind_without_a_file_is_a_reason(gdc):
    settings = {"projects": ["CPTAC-3"], "primary_sites": ["Brain"], "kinds": ["expression", "copy_number"]}
    reason = (
        r"the GDC has no open files for CPTAC-3 \(Brain\) of kind copy_number; take what is not there out of `kinds`"
    )
    with pytest.raises(Unavailable, match=reason) as caught:
        query_manifest(settings, gdc.address)
    assert caught.value.awaits is None  # only other settings, or another release of the GDC, would help


def test_the_question_asks_for_open_files_of_the_projects(gdc):
    query_manifest({**SETTINGS, "kinds": ["slide"]}, gdc.address)
    (question,) = gdc.asked
    conditions = {c["content"]["field"]: c["content"]["value"] for c in question["filters"]["content"]}
    assert conditions == {
        "cases.project.project_id": ["TCGA-GBM", "TCGA-LGG"],
        "access": ["open"],
        "data_type": ["Slide Image"],
        "experimental_strategy": ["Diagnostic Slide"],
    }
    assert set(KINDS) == {"expression", "mutations", "copy_number", "slide"}


def test_cases_of_one_primary_site_are_asked_for_alone(gdc):
    """CPTAC-3 holds kidneys and lungs beside brains."""
    settings = {"projects": ["CPTAC-3"], "primary_sites": ["Brain"], "kinds": ["slide"]}
    frame, _ = query_manifest(settings, gdc.address)
    (question,) = gdc.asked
    conditions = {c["content"]["field"]: c["content"]["value"] for c in question["filters"]["content"]}
    assert conditions["cases.project.project_id"] == ["CPTAC-3"]
    assert conditions["cases.primary_site"] == ["Brain"]
    url = urlsplit(frame.loc[frame["kind"] == "clinical", "url"].item())
    asked = json.loads(parse_qs(url.query)["filters"][0])
    assert asked == {
        "op": "and",
        "content": [
            {"op": "in", "content": {"field": "project.project_id", "value": ["CPTAC-3"]}},
            {"op": "in", "content": {"field": "primary_site", "value": ["Brain"]}},
        ],
    }


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("busy", Unavailable, "answers 503"),
        ("html", InputError, "did not answer JSON"),
        ("refuses", InputError, "refuses the question: 400"),
        ("short", InputError, "0 of 4 expression files were listed"),
    ],
)
def test_what_can_go_wrong_is_told_apart(gdc, monkeypatch, broken, error, message):
    monkeypatch.setattr("histofuse.sources.fetch.PAUSE", 0)
    gdc.broken = broken
    with pytest.raises(error, match=message):
        query_manifest(SETTINGS, gdc.address)


def test_no_network_and_a_folder_are_no_failure_but_a_reason(tmp_path):
    with pytest.raises(Unavailable, match="cannot be reached"):
        query_manifest(SETTINGS, "http://127.0.0.1:9", timeout=2)
    with pytest.raises(Unavailable, match="on the network only"):
        query_manifest(SETTINGS, str(tmp_path))


def pinned(folder, *kinds, **change):
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"file_id": f"id-{kind}", "kind": kind, "filename": f"{kind}.tsv", "url": f"https://example.org/{kind}"}
        | {"case_id": "" if kind == "clinical" else "T-1"}
        | change
        for kind in kinds
    ]
    write_table(pd.DataFrame(rows).drop(columns=["batch", "mpp"]), folder / "pinned.tsv")
    return folder / "pinned.tsv"


def test_a_list_of_ones_own_takes_the_place_of_the_question(tmp_path):
    settings = {"projects": ["CPTAC-3"], "kinds": ["expression", "slide"]}
    frame = pinned_manifest(pinned(tmp_path, "clinical", "expression", "slide"), settings)
    assert frame["kind"].tolist() == ["clinical", "expression", "slide"]
    with pytest.raises(
        Unavailable, match=r"pinned\.tsv lists no files of kind slide; take what is not there out of `kinds`"
    ):
        pinned_manifest(pinned(tmp_path, "clinical", "expression"), settings)


def test_a_list_without_clinical_records_or_cases_is_refused(tmp_path):
    settings = {"projects": ["CPTAC-3"], "kinds": ["expression"]}
    with pytest.raises(InputError, match=r"pinned\.tsv: no row is of kind clinical.*; add the GDC's answer to /cases"):
        pinned_manifest(pinned(tmp_path, "expression"), settings)
    with pytest.raises(InputError, match=r"pinned\.tsv, row 2 .*'id-expression'.* expression needs the case_id"):
        pinned_manifest(pinned(tmp_path, "clinical", "expression", case_id=""), settings)

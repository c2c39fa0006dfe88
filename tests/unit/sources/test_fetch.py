"""Fetching against a server on this machine that misbehaves in the ways real ones do."""

import hashlib
import http.server
import json
import re
import threading

import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.sources.fetch import (
    NETWORK,
    Unavailable,
    ask,
    check_available,
    fetch_batch,
    fetch_file,
    problem_with,
    source_of,
)

CONTENT = bytes(range(256)) * 400
JPEG = b"\xff\xd8\xff\xe0" + CONTENT + b"\xff\xd9"
HTML = b"<html><body>Please log in</body></html>"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the path says how. `requests` records (path, Range)."""

    requests: list  # one per test, set by the fixture, like the next
    heads: list
    protocol_version = "HTTP/1.0"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.heads.append(self.path)
        busy = 429 if self.heads.count(self.path) < 3 else 200
        self.send_response({"/nohead": 405, "/404": 404, "/busy": busy, "/dead": 503}.get(self.path, 200))
        self.end_headers()

    def do_GET(self):
        start = self.headers.get("Range")
        self.requests.append((self.path, start))
        times = [path for path, _ in self.requests].count(self.path)
        if self.path == "/404":
            return self.send_error(404, "Not Found")
        if self.path == "/dead" or (self.path == "/busy" and times < 3):
            return self.send_error(503, "Busy")
        if self.path.startswith("/live"):
            answer = b'{"asked": "%s", "time": %d}' % (self.path.encode(), times)
            return self.answer(200, answer, len(answer))
        if self.path == "/html":
            return self.answer(200, HTML, len(HTML))
        if self.path.startswith("/jpeg"):
            return self.answer_jpeg(times)
        offset = int(re.fullmatch(r"bytes=(\d+)-\d*", start)[1]) if start else 0
        if offset >= len(CONTENT):
            return self.send_error(416, "Range Not Satisfiable")
        if offset and self.path != "/norange":
            return self.answer(206, CONTENT[offset:], len(CONTENT) - offset, offset)
        # A cut answer announces everything and sends half.
        sent = CONTENT[: len(CONTENT) // 2] if self.path in {"/cut", "/norange"} and times == 1 else CONTENT
        return self.answer(200, sent, len(CONTENT))

    def answer_jpeg(self, times):
        """An image made for every question: Range is ignored, and there may be no Content-Length."""
        sent = JPEG[: len(JPEG) // 2] if self.path == "/jpeg-short" or (times == 1 and "cut" in self.path) else JPEG
        length = {"/jpeg-nolength": None, "/jpeg-short": len(sent)}.get(self.path, len(JPEG))
        self.answer(200, sent, length)

    def answer(self, status, body, length, offset=0):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if status == 206:
            self.send_header("Content-Range", f"bytes {offset}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"requests": [], "heads": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        running.address = f"http://127.0.0.1:{running.server_port}"
        running.requests, running.heads = handler.requests, handler.heads
        yield running
        running.shutdown()


def row(url, **values):
    empty = {"file_id": "a", "case_id": "", "kind": "slide", "filename": "a.svs", "size": "", "md5": "", "sha256": ""}
    return {**empty, "url": url, "batch": "slide-000", **values}


def good(url):
    return row(url, size=str(len(CONTENT)), md5=hashlib.md5(CONTENT).hexdigest())


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_arrives_whole_under_its_kind(server, tmp_path):
    path = fetch_file(good(f"{server.address}/ok"), tmp_path)
    assert path == tmp_path / "slide" / "a.svs"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["a.svs"]


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    path = fetch_file(good(f"{server.address}/cut"), tmp_path, pause=0)
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/cut", None), ("/cut", f"bytes={len(CONTENT) // 2}-")]


def test_a_server_without_range_starts_again(server, tmp_path):
    assert fetch_file(good(f"{server.address}/norange"), tmp_path, pause=0).read_bytes() == CONTENT


def test_a_part_of_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / ".a.svs.part").write_bytes(CONTENT[:1000])
    assert fetch_file(good(f"{server.address}/ok"), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/ok", "bytes=1000-")]


def test_a_part_of_another_version_is_thrown_away_once(server, tmp_path):
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / ".a.svs.part").write_bytes(b"x" * 1000)
    assert fetch_file(good(f"{server.address}/ok"), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/ok", "bytes=1000-"), ("/ok", None)]


def test_a_whole_part_without_known_size_is_accepted(server, tmp_path):
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / ".a.svs.part").write_bytes(CONTENT)
    wanted = row(f"{server.address}/ok", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert fetch_file(wanted, tmp_path).read_bytes() == CONTENT  # the server answers 416


def test_a_busy_server_is_asked_three_times(server, tmp_path):
    assert fetch_file(good(f"{server.address}/busy"), tmp_path, pause=0).read_bytes() == CONTENT
    assert len(server.requests) == 3
    with pytest.raises(InputError, match=r"a\.svs.*3 tries brought nothing.*503"):
        fetch_file(row(f"{server.address}/dead"), tmp_path / "other", pause=0)


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(InputError, match=r"a\.svs.*404 Not Found"):
        fetch_file(good(f"{server.address}/404"), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": "7"}])
def test_an_html_page_with_status_200_is_refused(server, tmp_path, known):
    with pytest.raises(InputError, match=r"a\.svs.*expected .*, got"):
        fetch_file(row(f"{server.address}/html", **known), tmp_path)
    assert names(tmp_path) == []


def image(url):
    return row(url, filename="W1-1-1-A.1.01_7.jpg", mpp="0.5")


@pytest.mark.parametrize("path", ["/jpeg", "/jpeg-nolength", "/jpeg-cut"])
def test_an_image_without_checksum_arrives_whole(server, tmp_path, path):
    assert fetch_file(image(f"{server.address}{path}"), tmp_path, pause=0).read_bytes() == JPEG
    assert len(server.requests) == (2 if path == "/jpeg-cut" else 1)  # fewer bytes than Content-Length promised


def test_half_an_image_is_noticed_also_where_the_server_says_it_is_all(server, tmp_path):
    with pytest.raises(InputError, match=r"_7\.jpg .*the JPEG image is cut off: its end marker is missing"):
        fetch_file(image(f"{server.address}/jpeg-short"), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("path", "got"), [("/html", r"a web page \(HTML\)"), ("/ok", "something else")])
def test_an_image_must_be_one(server, tmp_path, path, got):
    with pytest.raises(InputError, match=f"expected a JPEG image, got {got}"):
        fetch_file(image(f"{server.address}{path}"), tmp_path)
    assert names(tmp_path) == []


def test_a_part_of_an_earlier_run_is_dropped_where_no_checksum_could_tell(server, tmp_path):
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / ".W1-1-1-A.1.01_7.jpg.part").write_bytes(b"older" * 10)
    assert fetch_file(image(f"{server.address}/jpeg"), tmp_path).read_bytes() == JPEG
    assert server.requests == [("/jpeg", None)]


def test_a_live_answer_must_be_json(server, tmp_path):
    with pytest.raises(InputError, match="expected JSON"):
        fetch_file(row(f"{server.address}/html", kind="clinical", filename="cases.json"), tmp_path)


def live(url):
    return row(url, kind="clinical", filename="cases.json", batch="clinical-000")


def test_a_live_answer_is_kept_while_question_and_release_are_the_same(server, tmp_path):
    first = live(f"{server.address}/live?projects=LGG")
    path = fetch_file(first, tmp_path, release="45")
    fetch_file(first, tmp_path, release="45")
    assert len(server.requests) == 1

    fetch_file(live(f"{server.address}/live?projects=LGG,GBM"), tmp_path, release="45")
    assert json.loads(path.read_bytes())["asked"] == "/live?projects=LGG,GBM"

    fetch_file(first, tmp_path, release="45")
    fetch_file(first, tmp_path, release="46")
    assert json.loads(path.read_bytes()) == {"asked": "/live?projects=LGG", "time": 3}


def test_a_live_answer_of_unknown_origin_is_asked_for_again(server, tmp_path):
    (tmp_path / "clinical").mkdir()
    (tmp_path / "clinical" / "cases.json").write_text("{}")
    path = fetch_file(live(f"{server.address}/live"), tmp_path)
    assert json.loads(path.read_bytes())["asked"] == "/live"


def test_what_was_recorded_of_an_answer_does_not_outlive_it(server, tmp_path):
    """The same name holds a checked file for a while: its row has another address."""
    answer = live(f"{server.address}/live")
    fetch_file(answer, tmp_path)
    content = b'{"asked": "/live?checked", "time": 1}'
    fetch_file({**answer, "url": f"{server.address}/live?checked", "md5": hashlib.md5(content).hexdigest()}, tmp_path)
    fetch_file(answer, tmp_path)
    assert server.requests.count(("/live", None)) == 2


@pytest.mark.parametrize("kind", ["ivygap_expression", "ivygap_tumors"])
def test_ivygaps_files_must_not_be_a_web_page(server, tmp_path, kind):
    with pytest.raises(InputError, match="got a web page"):
        fetch_file(row(f"{server.address}/html", kind=kind, filename="tumor_details.csv"), tmp_path)
    assert names(tmp_path) == []


def test_a_verified_file_is_kept_and_a_damaged_one_is_fetched_again(server, tmp_path):
    wanted = good(f"{server.address}/ok")
    path = fetch_file(wanted, tmp_path)
    fetch_file(wanted, tmp_path)
    assert len(server.requests) == 1
    path.write_bytes(CONTENT[:-1])
    assert problem_with(path, wanted) == f"expected {len(CONTENT)} bytes, got {len(CONTENT) - 1}"
    assert fetch_file(wanted, tmp_path).read_bytes() == CONTENT


def test_a_mirror_folder_is_used_instead_of_the_network(tmp_path):
    source = tmp_path / "mirror" / "data.example.org" / "x" / "a.svs"
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    wanted = good("https://data.example.org/x/a.svs?token=1")
    path = fetch_file(wanted, tmp_path / "raw", tmp_path / "mirror")
    assert path.read_bytes() == CONTENT
    with pytest.raises(InputError, match="not in the mirror"):
        fetch_file(good("https://data.example.org/y/a.svs"), tmp_path / "other", tmp_path / "mirror")


def test_a_damaged_mirror_file_is_refused_and_left_alone(tmp_path):
    source = tmp_path / "mirror" / "data.example.org" / "a.svs"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"short")
    with pytest.raises(InputError, match=f"expected {len(CONTENT)} bytes, got 5"):
        fetch_file(good("https://data.example.org/a.svs"), tmp_path / "raw", tmp_path / "mirror")
    assert source.read_bytes() == b"short"
    assert names(tmp_path / "raw") == []


def test_the_layout_of_mirrors():
    url = "https://api.gdc.cancer.gov/data/1?x=2"
    assert source_of(url, None) == url
    assert source_of(url, "http://cache:8080/") == "http://cache:8080/api.gdc.cancer.gov/data/1"
    assert source_of(url, "folder").as_posix() == "folder/api.gdc.cancer.gov/data/1"
    with pytest.raises(InputError, match="climbs out"):
        source_of("https://host/a/../../../etc/passwd", "folder")


def test_a_batch_leaves_a_receipt(server, tmp_path):
    manifest = pd.DataFrame([good(f"{server.address}/ok"), {**good(f"{server.address}/404"), "batch": "slide-001"}])
    receipt = fetch_batch(manifest, "slide-000", tmp_path, None)
    assert receipt["path"].tolist() == [str(tmp_path / "slide" / "a.svs")]
    with pytest.raises(InputError, match="no batch 'slide-007'"):
        fetch_batch(manifest, "slide-007", tmp_path, None)


def test_a_receipt_tells_one_live_answer_from_another(server, tmp_path):
    manifest = pd.DataFrame([live(f"{server.address}/live")])
    receipts = [fetch_batch(manifest, "clinical-000", tmp_path, None, release) for release in ("45", "46")]
    assert receipts[0]["sha256"].item() != receipts[1]["sha256"].item()
    content = (tmp_path / "clinical" / "cases.json").read_bytes()
    assert receipts[1]["sha256"].item() == hashlib.sha256(content).hexdigest()


def manifest_of(*urls):
    return pd.DataFrame([row(url) for url in urls])


def test_the_first_file_that_cannot_be_had_is_named_with_what_is_awaited(server, tmp_path):
    def address(*paths):
        return manifest_of(*(f"{server.address}{path}" for path in paths))

    check_available(address("/ok", "/nohead"), None)
    with pytest.raises(Unavailable, match=r"/404 cannot be reached \(404 Not Found\)") as caught:
        check_available(address("/ok", "/404"), None)
    assert caught.value.awaits == NETWORK
    assert server.heads.count("/404") == 1
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        check_available(manifest_of("http://127.0.0.1:9/a"), None, timeout=2)
    assert caught.value.awaits == NETWORK
    with pytest.raises(Unavailable, match=r"data\.example\.org/b\.svs is not in the mirror") as caught:
        check_available(manifest_of("https://data.example.org/b.svs"), str(tmp_path))
    assert caught.value.awaits == tmp_path / "data.example.org" / "b.svs"


def test_a_busy_server_is_asked_three_times_whether_it_has_a_file(server):
    check_available(manifest_of(f"{server.address}/busy"), None, pause=0)
    assert server.heads == ["/busy"] * 3
    with pytest.raises(Unavailable, match="503 Service Unavailable"):
        check_available(manifest_of(f"{server.address}/dead"), None, pause=0)
    assert server.heads.count("/dead") == 3


def test_a_busy_server_is_asked_a_question_three_times(server, monkeypatch):
    monkeypatch.setattr("histofuse.sources.fetch.PAUSE", 0)
    with pytest.raises(Unavailable, match="answers 503"):
        ask("https://data.example.org/dead", f"{server.address}/dead", timeout=5)
    assert len(server.requests) == 3

"""What the workflow makes of files that cannot be had yet, of a list of one's own, and of too few published splits."""

import http.server
import json
import shutil
import threading
from functools import partial

import pandas as pd
import pytest
from workflow_examples import Checkout, published_table, tiny_config

ANSWER = "resources/kirc/availability.json"


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "repository")


@pytest.fixture
def published(tmp_path):
    """A folder that will be a mirror, the files for it, and a configuration of a cohort that pins them."""
    config = tiny_config()
    config["cohorts"]["kirc"] = {"required": False} | published_table(
        tmp_path / "later" / "files.example.org" / "tables"
    )
    (tmp_path / "mirror").mkdir()
    return tmp_path, config


@pytest.fixture
def address(published):
    serve = partial(Files, directory=published[0] / "mirror")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_what_a_server_lacked_is_asked_for_again_and_nothing_else_is_done(checkout, published, address):
    folder, config = published
    run = (ANSWER, "--configfile", checkout.write_config(config, "kirc.yaml"), "--config", f"mirror={address}")
    checkout.snakemake(*run)
    answer = json.loads((checkout / ANSWER).read_text())
    assert not answer["available"]
    assert "cannot be reached (404" in answer["reason"]

    assert checkout.plan(*run).jobs == {"manifest": 1}
    checkout.snakemake(*run)
    assert json.loads((checkout / ANSWER).read_text()) == answer

    shutil.copytree(folder / "later", folder / "mirror", dirs_exist_ok=True)
    checkout.snakemake(*run)
    assert json.loads((checkout / ANSWER).read_text())["available"]
    assert "Nothing to be done" in checkout.snakemake(*run)


def test_a_mirror_folder_is_asked_again_once_it_has_what_it_lacked(checkout, published):
    folder, config = published
    run = (ANSWER, "--configfile", checkout.write_config(config, "kirc.yaml"), "--config", "mirror=../mirror")
    checkout.snakemake(*run)
    assert "is not in the mirror" in json.loads((checkout / ANSWER).read_text())["reason"]
    assert "Nothing to be done" in checkout.snakemake(*run)

    shutil.copytree(folder / "later", folder / "mirror", dirs_exist_ok=True)
    checkout.snakemake(*run)
    assert json.loads((checkout / ANSWER).read_text())["available"]
    assert "Nothing to be done" in checkout.snakemake(*run)


def test_an_edited_list_of_files_is_read_again(checkout):
    config = tiny_config()
    cohort = {"source": "gdc", "projects": ["CPTAC-3"], "kinds": ["slide"], "manifest": "files.tsv", "required": False}
    config["cohorts"]["cptac"] = cohort
    common = {"size": "", "md5": "", "sha256": ""}
    clinical = {"file_id": "cases", "case_id": "", "kind": "clinical", "filename": "cases.json"}
    slide = {"file_id": "1", "case_id": "C-1", "kind": "slide", "filename": "C-1.svs"}
    listed = [row | common | {"url": f"https://example.org/{row['file_id']}"} for row in (clinical, slide)]
    pd.DataFrame(listed[1:]).to_csv(checkout / "files.tsv", sep="\t", index=False)
    answer = "resources/cptac/availability.json"
    run = (answer, "--configfile", checkout.write_config(config, "cptac.yaml"), "--config", "mirror=../mirror")
    assert "files.tsv: no row is of kind clinical" in checkout.refused(*run)

    pd.DataFrame(listed).to_csv(checkout / "files.tsv", sep="\t", index=False)
    checkout.snakemake(*run)
    assert "https://example.org/cases is not in the mirror" in json.loads((checkout / answer).read_text())["reason"]
    assert "Nothing to be done" in checkout.snakemake(*run)

    pd.DataFrame(listed[:1]).to_csv(checkout / "files.tsv", sep="\t", index=False)
    checkout.snakemake(*run)
    assert "files.tsv lists no files of kind slide" in json.loads((checkout / answer).read_text())["reason"]


@pytest.mark.parametrize("n_splits", [2, 4])
def test_another_number_of_splits_than_of_published_files_is_refused(checkout, published, n_splits):
    config = published[1]
    config["protocols"]["published3"] = {"kind": "given", "n_splits": n_splits}
    row = {"label": "Cox", "model": "clinical", "cohort": "kirc", "protocol": "published3"}
    config["tables"] = {
        "kirc": {"title": "KIRC", "task": "survival_kirc", "seeds": [0], "metrics": ["harrell_c"], "rows": [row]}
    }
    config["tasks"]["survival_kirc"] = {"kind": "survival"}
    output = checkout.refused("--dry-run", "--configfile", checkout.write_config(config, "kirc.yaml"))
    assert (
        f"protocols: published3: n_splits: {n_splits} is not the number of split files that kirc names for it, 3"
        in output
    )

"""A published table with the oddities of KIRC: rows that cannot be run say why, and run once the files are there."""

import shutil

import pandas as pd
import pytest
from workflow_examples import Checkout, published_table

from histofuse.evaluation.predictions import check_predictions

MODELS = ("clinical", "penalised_clinical_genomic")


def table_config(entry: dict, **cohort) -> dict:
    """One table of two models on the given folds of a published table that need not be there."""
    return {
        "cohorts": {"kirc": {"required": False, **entry, **cohort}},
        "tasks": {"survival": {"kind": "survival", "modalities": ["expression", "alterations"]}},
        "protocols": {
            "published3": {"kind": "given", "n_splits": 3},
            "censored2": {"kind": "given", "n_splits": 2},
        },
        "models": {},
        "tables": {
            "kirc_survival": {
                "title": "Survival, tiny KIRC",
                "cohort": "kirc",
                "task": "survival",
                "protocol": "published3",
                "seeds": [0],
                "metrics": ["harrell_c"],
                "reference_row": "Cox",
                "rows": [{"label": "Cox", "model": MODELS[0]}, {"label": "Penalised Cox", "model": MODELS[1]}],
            }
        },
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The files of a published table, laid out like a mirror, and the cohort's entry that pins them."""
    mirror = tmp_path_factory.mktemp("published")
    return mirror, published_table(mirror / "files.example.org" / "tables")


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "mirror").mkdir()
    return Checkout(tmp_path / "repository")


def drop_in(published, checkout):
    shutil.copytree(published[0], checkout.folder.parent / "mirror", dirs_exist_ok=True)


def run_of(checkout, config):
    return ("--configfile", checkout.write_config(config, "kirc.yaml"), "--config", "mirror=../mirror")


def test_rows_wait_for_the_files_and_run_once_they_are_there(checkout, published):
    run = run_of(checkout, table_config(published[1]))
    table = checkout / "results/tables/kirc_survival.csv"

    checkout.snakemake("tables", *run)

    waiting = pd.read_csv(table)
    assert len(waiting) == 2
    assert waiting["estimate"].isna().all()
    assert waiting["status"].str.startswith("not run: ").all()
    assert (
        waiting["status"]
        .str.contains("https://files.example.org/tables/tcga_tiny_all_clean.csv.zip", regex=False)
        .all()
    )
    assert "tcga_tiny_all_clean.csv.zip" in table.with_suffix(".md").read_text()

    drop_in(published, checkout)
    checkout.snakemake("tables", *run)

    done = pd.read_csv(table)
    assert (done["status"] == "run").all()
    assert (done["n_splits"] == 3).all()
    # the simulated risk drives three of eight genes and neither age nor sex
    estimate = done.set_index("row")["estimate"]
    assert estimate["Penalised Cox"] > max(estimate["Cox"], 0.6)
    for model in MODELS:
        path = checkout / f"results/kirc/runs/survival/published3/{model}/split1/seed0/predictions.parquet"
        predictions = pd.read_parquet(path)
        check_predictions(predictions, "survival")
        folds = pd.read_csv(published[0] / "files.example.org/tables/splits_1.csv")
        assert set(predictions.query("part == 'test'")["case_id"]) == set(folds["val"].dropna())
        assert set(predictions.query("part == 'train'")["case_id"]) == set(folds["train"].dropna())
    assert "Nothing to be done" in checkout.snakemake("tables", *run)


def test_required_table_that_is_absent_ends_the_run(checkout, published):
    output = checkout.refused("tables", *run_of(checkout, table_config(published[1], required=True)))

    assert "InputError: the cohort is required but cannot be had" in output
    assert "tcga_tiny_all_clean.csv.zip" in output


def test_wrong_checksum_names_the_file_and_both_sums(checkout, published):
    drop_in(published, checkout)
    wrong = {**published[1]["table"], "sha256": "0" * 64}

    output = checkout.refused("tables", *run_of(checkout, table_config(published[1], table=wrong)))

    (line,) = {line for line in output.splitlines() if line.startswith("InputError")}
    assert "tcga_tiny_all_clean.csv.zip" in line
    assert "0" * 64 in line
    assert published[1]["table"]["sha256"] in line


def test_split_without_an_event_to_train_on_is_named(checkout, published):
    drop_in(published, checkout)

    output = checkout.refused("results/kirc/splits/censored2.parquet", *run_of(checkout, table_config(published[1])))

    assert "InputError: split 1: all " in output
    assert "cases of the train part are censored" in output

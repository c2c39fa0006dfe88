"""Every configuration in config/ is valid, and a wrong one is refused before the first job, naming the key."""

import copy
import csv
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from dry_runs import dry_run

from histofuse.slides.quality import QUALITY

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "models.yaml")


def read(name):
    return yaml.safe_load((ROOT / "config" / name).read_text())


def merged(base, change):
    """`change` put over `base`, key by key."""
    deeper = isinstance(base, dict) and isinstance(change, dict)
    return base | {key: merged(base.get(key), value) for key, value in change.items()} if deeper else change


def test_there_are_configurations():
    assert {"config.yaml", "tcga_tables.yaml", "paper.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_is_valid(name):
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    errors = [
        f"{error.json_path}: {error.message}"
        for error in validator.iter_errors(merged(read("models.yaml"), read(name)))
    ]
    assert errors == []


def test_every_checkpoint_is_in_the_table_of_pretrained_weights():
    with (ROOT / "config" / "pretrained.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["name", "what", "address", "files", "sha256", "licence", "destination"]
    assert all(value for row in rows for value in row.values())
    destinations = [row["destination"] for row in rows]
    assert len(set(destinations)) == len(destinations)
    folders = {row["destination"] for row in rows if row["files"] == "args.json vocab.json best_model.pt"}
    files = {f"{row['destination']}/{file}" for row in rows for file in row["files"].split()}
    embeddings = [entry for name in CONFIGS for entry in read(name).get("embeddings", {}).values()]
    assert {entry["checkpoint"] for entry in embeddings} - {"simulated"} <= folders
    entries = [entry for name in [*CONFIGS, "models.yaml"] for entry in read(name).get("models", {}).values()]
    assert set().union(*(checkpoints(entry.get("params", {})) for entry in entries)) <= files


def checkpoints(params):
    """All that nested parameters give as `checkpoint`."""
    inner = [checkpoints(value) for value in params.values() if isinstance(value, dict)]
    return {params.get("checkpoint")}.union(*inner) - {None}


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("colour",), "red", ["'colour' was unexpected"]),
        (
            ("protocols", "mccv5", "n_splitz"),
            5,
            ["protocols: mccv5", "'n_splitz' was unexpected", "known keys", "n_splits"],
        ),
        (
            ("cohorts", "simulated_glioma", "simulated", "cases"),
            "many",
            ["cohorts: simulated_glioma: simulated: cases", "'many' is not of type 'integer'"],
        ),
        (("models", "snn_genomic", "training", "lr"), "fast", ["models: snn_genomic: training: lr", "'number'"]),
        (
            ("cohorts", "simulated_glioma", "source"),
            "imaginary",
            ["simulated_glioma: source", "'imaginary'", "simulated"],
        ),
        (
            ("tables", "simulated_survival", "rows", 1, "model"),
            "snn_genomik",
            ["simulated_survival", "model", "'snn_genomik'"],
        ),
        (("models", "attmil", "extends"), "attmil", ["models: attmil extends attmil"]),
        (
            ("models", "snn_hvg", "inputs"),
            {"expression": {"group": ["tumor"]}},
            ["models: snn_hvg", "inputs: expression: group: 'tumor' is not one of", "tumour_and_microenvironment"],
        ),
        (
            ("models", "snn_hvg", "inputs"),
            {"arms": {"from": "alterations"}},
            [
                "simulated_meta",
                "its model or its task asks for alterations, which glioma_meta does not have",
            ],
        ),
        (
            ("smoothings", "mixup"),
            {"embedding": "brain"},
            ["models: snn_scgpt_smoothed: inputs: scgpt: the smoothing mixup is of the embedding brain"],
        ),
        (
            ("smoothings", "raw"),
            {"embedding": "scgpt"},
            ["smoothings: raw: this name is taken by the embedding itself"],
        ),
        (
            ("atlases", "simulated_cells", "classes"),
            "coarse.tsv",
            ["atlases: simulated_cells: classes: there is no coarse.tsv"],
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_mistake_is_refused_by_name(tmp_path, path, value, says):
    config = copy.deepcopy(read("config.yaml"))
    place = config
    for key in path[:-1]:
        place = place[key] if isinstance(place, list) else place.setdefault(key, {})
    place[path[-1]] = value
    done = dry_run(config, tmp_path)
    message = done.stdout + done.stderr
    assert done.returncode != 0
    for text in says:
        assert text in message
    assert "Traceback" not in message


def test_a_configuration_without_tables_does_not_get_those_of_the_demo(tmp_path):
    config = {key: value for key, value in read("config.yaml").items() if key != "tables"}
    done = dry_run(config, tmp_path)
    assert done.returncode != 0
    assert "top level: 'tables' is a required property" in done.stdout + done.stderr


@pytest.mark.parametrize("path", ["resources/atlases/mine.h5ad", "resources/scgpt/mine/best_model.pt"])
def test_no_rule_writes_the_users_cells_and_checkpoints(tmp_path, path):
    """They may lie where simulated ones of that name would: a run with -F must not put these in their place."""
    config = read("config.yaml")
    config["atlases"]["mine"] = {"source": "file", "file": "resources/atlases/mine.h5ad"}
    config["embeddings"]["mine"] = {"checkpoint": "resources/scgpt/mine", "atlas": "mine"}
    done = dry_run(config, tmp_path, path)
    assert done.returncode != 0
    assert "MissingRuleException" in done.stdout + done.stderr


def test_names_with_signs_of_regular_expressions_are_found(tmp_path):
    config = read("config.yaml")
    config["atlases"]["cells+more"] = config["atlases"]["simulated_cells"]
    done = dry_run(config, tmp_path, "resources/atlases/cells+more.h5ad")
    assert done.returncode == 0, done.stderr


def test_quality_of_slides_is_described_as_it_is_in_the_code():
    described = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())["$defs"]["quality"][
        "properties"
    ]
    stated = {key: re.search(r"by default (\d+(\.\d+)?)", entry["description"]) for key, entry in described.items()}
    defaults = {key: float(found[1]) for key, found in stated.items()}
    assert defaults == QUALITY

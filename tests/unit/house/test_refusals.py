"""What is wrong with a configuration is said in one line per mistake, whatever shape it has."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.exceptions import WorkflowError

ROOT = Path(__file__).parents[3]
RULES = ROOT / "workflow" / "rules" / "validation.smk"
SECTIONS = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())["properties"]
NAMED = [name for name, section in SECTIONS.items() if "additionalProperties" in section]


def refused(change):
    """The lines that refuse the demo with a change {section: {entry: value}} put over it."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for section, entries in change.items():
        config[section] = config.get(section, {}) | entries
    with pytest.raises(WorkflowError) as error:
        exec(RULES.read_text(), {"workflow": SimpleNamespace(basedir=str(ROOT)), "config": config})
    return [line.strip() for line in str(error.value).splitlines()[1:]]


@pytest.mark.parametrize("section", NAMED)
def test_an_entry_that_was_left_empty(section):
    assert refused({section: {"mine": None}}) == [f"{section}: mine: None is not of type 'object'"]


@pytest.mark.parametrize(
    ("section", "name"),
    [*((section, "a/b") for section in NAMED), *(("cohorts", name) for name in ("my own", "..", "{x}"))],
)
def test_a_name_that_can_be_no_folder(section, name):
    lines = refused({section: {name: {}}})
    assert any(line.startswith(f"{section}: {name!r} cannot be a name: it becomes a folder") for line in lines)


def test_a_name_that_is_a_number():
    (line,) = refused({"protocols": {5: {"kind": "kfold", "n_splits": 5}}})
    assert line == "protocols: 5 cannot be a name: it is no text; put it in quotes"


@pytest.mark.parametrize(
    ("section", "entry", "says"),
    [
        ("slide_features", {"encoder": "resnet18"}, "needs from, or encoder and weights"),
        ("gene_selections", {"fitted_on": "all"}, "needs top, or panel"),
        ("cohorts", {"label": "Mine"}, "'source' is missing; it is one of simulated, published_tables, gdc, "),
        ("atlases", {"source": "simulated", "held_out": 2}, "held_out: 2 is not one of: Share of donors that only"),
    ],
)
def test_an_entry_that_lacks_something(section, entry, says):
    (line,) = refused({section: {"mine": entry}})
    assert line.startswith(f"{section}: mine: ")
    assert says in line

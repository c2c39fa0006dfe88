"""What README.md tells people to type exists, and its example model works."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from dry_runs import dry_run

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def block(language, holds):
    """The first fenced block of a language that holds a text."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holds in text)


def test_make_targets_exist():
    mentioned = set(re.findall(r"`make (\w+)", README))
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert mentioned
    assert mentioned <= targets
    assert set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()) == targets


@pytest.mark.parametrize("option", ["configfile", "workflow-profile"])
def test_named_files_exist(option):
    named = set(re.findall(rf"--{option} ([\w./]+)", README)) - {"my.yaml", "my_study/config.yaml"}
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_example_model_learns_from_what_it_is_given():
    namespace = {}
    exec(block("python", "class MeanPool"), namespace)
    entry = yaml.safe_load(block("yaml", "mean_pool:"))["models"]["mean_pool"]
    model = namespace[entry["class"].partition(":")[2]](
        {"tiles": (5,), "expression": (3,)}, 2, **entry["params"]
    ).eval()
    tiles = torch.randn(4, 7, 5)
    count = torch.ones(4, 7)
    count[0, 3:] = 0
    batch = {"tiles": tiles, "tiles_count": count, "expression": torch.randn(4, 3)}
    output = model(batch)
    assert output.shape == (4, 2)
    padded = tiles.clone()
    padded[0, 3:] = 99.0
    torch.testing.assert_close(model(batch | {"tiles": padded}), output)


def test_example_can_be_planned_as_it_stands(tmp_path):
    """A copy of the demo's configuration, the class beside it, the entry under `models` and its row in a table."""
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    (tmp_path / "my_model.py").write_text(block("python", "class MeanPool"))
    config["models"] |= yaml.safe_load(block("yaml", "mean_pool:"))["models"]
    table = config["tables"]["simulated_survival"]
    config["tables"] = {"mine": table | {"rows": table["rows"] + yaml.safe_load(block("yaml", "rows:"))["rows"]}}
    done = dry_run(config, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_example_entry_is_valid():
    from jsonschema import Draft202012Validator

    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    entry = yaml.safe_load(block("yaml", "mean_pool:"))["models"]["mean_pool"]
    assert list(Draft202012Validator({"$ref": "#/$defs/model", "$defs": schema["$defs"]}).iter_errors(entry)) == []

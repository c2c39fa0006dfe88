"""The example of a user's own model: its one command can be planned, and its entry adds its own runs to a grid."""

import re
import shlex
import shutil

import pandas as pd
import yaml
from workflow_examples import ROOT, Checkout, tiny_config

EXAMPLE = "examples/my_model"


def test_example_is_short_and_its_command_can_be_planned(tmp_path):
    checkout = Checkout(tmp_path)
    shutil.copytree(ROOT / EXAMPLE, checkout / EXAMPLE)
    assert len((ROOT / EXAMPLE / "my_model.py").read_text().splitlines()) <= 60
    (command,) = re.findall(r"^\.venv/bin/snakemake (.*)$", (ROOT / EXAMPLE / "README.md").read_text(), re.MULTILINE)
    jobs = checkout.plan(*shlex.split(command)).jobs
    assert {"simulate", "manifest", "report"} <= set(jobs)  # what follows from the manifest is not known yet


def test_own_model_is_trained_beside_others_that_stay_as_they_are(tiny_grid):
    """Entry and row as the example has them, in a table of rows that have been run before."""
    shutil.copytree(ROOT / EXAMPLE, tiny_grid / EXAMPLE)
    config, example = tiny_config(), yaml.safe_load((ROOT / EXAMPLE / "config.yaml").read_text())
    config["models"]["hot_spots"] = example["models"]["hot_spots"]
    (row,) = [row for row in example["tables"]["my_model"]["rows"] if row["model"] == "hot_spots"]
    table = config["tables"]["tiny_survival"]
    table |= {"rows": [*table["rows"], row], "heatmaps": ["hot_spots"], "kaplan_meier": []}
    config["tables"] = {"my_model": table}
    file = tiny_grid.write_config(config, f"{EXAMPLE}/tiny.yaml")
    targets = ["results/tables/my_model.csv", "results/figures/my_model/heatmaps_hot_spots.svg"]

    assert tiny_grid.plan(*targets, "--configfile", file).trained == {"hot_spots"}
    tiny_grid.snakemake(*targets, "--configfile", file)

    rows = pd.read_csv(tiny_grid / "results/tables/my_model.csv").set_index("row")
    assert (rows["status"] == "run").all()
    assert rows["estimate"].between(0, 1).all()
    assert set(rows.index) == {"Clinical", "SNN", "AttMIL", "AttMIL (regions)", "Concat", "Hot spots"}
    with tiny_grid.edited(f"{EXAMPLE}/my_model.py", "hidden=32", "hidden=16"):
        assert tiny_grid.plan(*targets, "--configfile", file).trained == {"hot_spots"}

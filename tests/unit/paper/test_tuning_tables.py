"""Trials of a table's rows in one frame, and in one line per row."""

import json

import numpy as np
import pandas as pd

from histofuse.paper.tuning import COLUMNS, collect, summarise


def trials(metrics, chosen, *settings, failed=()):
    return pd.DataFrame(
        {
            "trial": range(len(settings)),
            "settings": [json.dumps(values) for values in settings],
            "metric": metrics,
            "seconds": 1.0,
            "failed": ["the loss is nan" if k in failed else "" for k in range(len(settings))],
            "chosen": [k == chosen for k in range(len(settings))],
        }
    )


def collected(tmp_path):
    """As the report reads it."""
    one = trials([0.6, 0.7], 1, {"lr": 0.001, "betas": [0.9, 0.99]}, {"lr": 0.01, "betas": [0.5, 0.9]})
    two = trials([0.8, 0.7], 0, {"lr": 0.001, "betas": [0.9, 0.99]}, {"lr": 0.01, "betas": [0.5, 0.9]})
    other = trials([0.5, np.nan], 0, {"lr": 0.001}, {"lr": 9}, failed=[1])
    about = [{"row": row, "model": row.lower(), "split": split} for row, split in (("SNN", 0), ("SNN", 1), ("CNN", 0))]
    collect([one, two, other], about).to_csv(tmp_path / "trials.csv", index=False)
    return pd.read_csv(tmp_path / "trials.csv")


def test_every_trial_has_a_row_with_its_settings(tmp_path):
    frame = collected(tmp_path)
    assert frame.columns.tolist() == [*COLUMNS, "lr", "betas"]
    assert frame["lr"].tolist() == [0.001, 0.01, 0.001, 0.01, 0.001, 9]
    assert frame["betas"].tolist()[:2] == ["[0.9, 0.99]", "[0.5, 0.9]"]
    assert frame["betas"].isna().tolist() == [False] * 4 + [True] * 2


def test_a_row_of_the_table_has_one_line(tmp_path):
    snn, cnn = summarise(collected(tmp_path)).to_dict("records")
    assert snn["row"] == "SNN"
    assert (snn["splits"], snn["trials"], snn["failed"], snn["own settings kept"]) == (2, 4, 0, 1)
    assert np.isclose(snn["metric, own settings"], 0.7)
    assert np.isclose(snn["metric, chosen settings"], 0.75)
    assert snn["lr"] == "0.0055 (0.001 to 0.01)"
    assert {"[0.5, 0.9] 1", "[0.9, 0.99] 1"} == set(snn["betas"].replace("1, ", "1;").split(";"))
    assert (cnn["trials"], cnn["failed"], cnn["lr"], cnn["betas"]) == (2, 1, "0.001", "")

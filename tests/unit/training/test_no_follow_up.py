"""Patients whose follow-up is not known: trained on and predicted where a class is asked for."""

import numpy as np
import pandas as pd
from external_examples import split_of, write_cohort, write_splits

from histofuse.evaluation.predictions import check_predictions
from histofuse.evaluation.score import score_run
from histofuse.models.linear import LinearModel
from histofuse.models.snn import SNN
from histofuse.training.run import Job, run

TASK = {"kind": "classification", "column": "diagnosis", "classes": {"a": ["a"], "b": ["b"]}}
ENTRIES = {
    LinearModel: {"inputs": {"expression": {}}},
    SNN: {"inputs": {"expression": {}}, "params": {}, "training": {"epochs": 2, "lr": 0.01, "batch_size": 8}},
}


def test_a_class_is_learnt_and_scored_without_times(tmp_path):
    files = write_splits(tmp_path, write_cohort(tmp_path, "own", 32, seed=1))
    population = pd.read_parquet(files["population"])
    population["label"] = pd.array(np.arange(32) // 2 % 2, "Int64")
    whole = population.copy()
    lost = population.index % 5 == 0
    population["event"] = population["event"].astype("Int8").mask(lost)
    population["time_days"] = population["time_days"].mask(lost)
    for model_class, entry in ENTRIES.items():
        found = []
        for table in (whole, population):
            table.to_parquet(files["population"])
            result = run(
                model_class, entry, TASK, split_of(files, entry["inputs"], TASK), Job(0, 3, 1, tmp_path / "c", "d")
            )
            check_predictions(result.predictions, "classification")
            found.append(
                (result.predictions, score_run(result.predictions, "classification").set_index("metric")["value"])
            )
            (tmp_path / "c").unlink(missing_ok=True)
        assert set(found[1][0]["case_id"]) == set(population["case_id"])
        assert np.stack(found[0][0]["probabilities"]).tolist() == np.stack(found[1][0]["probabilities"]).tolist()
        pd.testing.assert_series_equal(found[0][1], found[1][1])

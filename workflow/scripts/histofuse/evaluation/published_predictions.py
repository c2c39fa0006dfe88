"""Published case-level predictions of other people's models, brought into the contract of our own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histofuse.evaluation.predictions import COLUMNS, check_predictions
from histofuse.io import InputError

SOURCE_COLUMNS = ["model", "rows", "fold", "patient", "risk", "time", "event", "in_rnaseq_subset"]


def read_patient_level(path: str | Path, model: str, rows: str, rna_subset: bool) -> pd.DataFrame:
    """Predictions of one `model` of Pathomic Fusion's released patient-level risks (a CSV, may be gzipped).

    `rows` says what was averaged to a patient ("patch": nine crops of each region, or "roi"). `rna_subset`
    keeps only patients with RNA-seq, the population that the multimodal models are scored on. The release
    holds no training cases, so metrics that need censoring weights are undefined. Its folds count from 1,
    ours from 0; its patients are anonymous, and numbered within a fold in an order that is not the same for all models.
    Nor are they the same patients for all: in 9 of the 15 folds the subset of `path` is not that of `omic`. Raises
    InputError naming what is absent.
    """
    # round_trip: risks that differ in the last bits must stay different, or the C-index sees ties
    table = pd.read_csv(path, float_precision="round_trip")
    missing = [name for name in SOURCE_COLUMNS if name not in table]
    if missing:
        raise InputError(f"{path}: lacks the column {', '.join(missing)}")
    chosen = table[(table["model"] == model) & (table["rows"] == rows)]
    if chosen.empty:
        known = sorted({f"{m} ({r})" for m, r in zip(table["model"], table["rows"])})
        raise InputError(f"{path}: has no predictions of {model} ({rows}); it has {', '.join(known)}")
    if rna_subset:
        chosen = chosen[chosen["in_rnaseq_subset"]]
    frame = pd.DataFrame(
        {
            "case_id": "fold" + chosen["fold"].astype(str) + "-" + chosen["patient"].astype(str),
            "part": "test",
            "split": chosen["fold"] - 1,
            "seed": 0,
            "time_days": chosen["time"].astype("float64"),
            "event": chosen["event"].astype("int8"),
            "risk": chosen["risk"].astype("float64"),
        }
    ).reindex(columns=COLUMNS)
    for name in ("label", "survival_times", "survival", "probabilities"):
        frame[name] = None
    check_predictions(frame, "survival")
    return frame.reset_index(drop=True)

"""A small table with everything in it: two models that ran, one that could not, published figures."""

import numpy as np
import pandas as pd

ENTRY = {
    "title": "Survival of 5 & more % of cases",
    "cohort": "glioma",
    "task": "survival",
    "protocol": "kfold5",
    "metrics": ["harrell_c", "uno_c"],
    "rows": [
        {"label": "Clinical", "model": "cox"},
        {"label": "SNN", "model": "snn", "published": "Genomic SNN"},
        {"label": "Ours", "model": "ours", "published": "Ours"},
    ],
    "reference_row": "Clinical",
    "seeds": [0, 1],
}
PUBLISHED = pd.DataFrame(
    {
        "table": "t",
        "row": ["Genomic SNN", "Ours", "Ours"],
        "cohort": "tcga",
        "task": ["survival", "relapse", "survival"],
        "metric": ["harrell_c"] * 3,
        "published": [0.808, 0.9, 0.848],
        "published_ci": [0.014, np.nan, np.nan],
        "note": "",
    }
)


def external_metrics():
    """Metrics on 31 cases of another cohort, each with replicates."""
    return with_replicates(metrics().assign(scored_on="cptac", n_test=31, cases="digest of 31 cases"))


def with_replicates(frame):
    rng = np.random.default_rng(1)
    return frame.assign(replicates=[value + 0.03 * rng.normal(size=200) for value in frame["value"]])


MISSING = {"Ours": "weights of scGPT are not at weights/scgpt.pt"}


def metrics(models=("cox", "snn"), seeds=(0, 1, 2), splits=5):
    rng = np.random.default_rng(0)
    rows = [
        {"cohort": "glioma", "task": "survival", "protocol": "kfold5", "model": model}
        | {"split": split, "seed": seed, "metric": metric, "value": 0.8 + 0.02 * rng.normal()}
        | {"n_train": 80, "n_test": 20, "n_events_test": 9, "note": "", "cases": f"test cases of {split}"}
        for model in models
        for split in range(splits)
        for seed in seeds
        for metric in ("harrell_c", "uno_c", "time_auc")
    ]
    frame = pd.DataFrame(rows)
    return with_replicates(frame) if splits == 1 else frame.assign(replicates=None)

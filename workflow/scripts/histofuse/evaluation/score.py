"""From predictions per case and per slide to a tidy frame of metrics: one row per split, seed and metric.

Metrics are of cases. Those of slides, which begin with `slide_`, are for comparison with papers that count each slide:
slides of one patient are not independent, so nothing that says how sure a figure is ever treats them as if they were.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from histofuse.evaluation import classification, survival
from histofuse.evaluation.predictions import check_predictions
from histofuse.evaluation.statistics import bootstrap_c_index
from histofuse.evaluation.undefined import Undefined
from histofuse.io import InputError

SURVIVAL_METRICS = ("harrell_c", "uno_c", "time_auc", "integrated_brier")
CLASSIFICATION_METRICS = ("macro_auc", "accuracy", "sensitivity", "specificity", "f1")
SLIDE_METRICS = {
    "survival": ("slide_harrell_c",),
    "classification": tuple(f"slide_{name}" for name in CLASSIFICATION_METRICS),
}
LABELS = ["cohort", "task", "protocol", "model", "scored_on"]
COLUMNS = [
    "split",
    "seed",
    "metric",
    "value",
    "n_train",
    "n_test",
    "n_events_test",
    "note",
    "case_low",
    "case_high",
]


def score_run(
    predictions: pd.DataFrame, kind: str, slides: pd.DataFrame | None = None, own_censoring: bool = False
) -> pd.DataFrame:
    """Metrics of the test part of every (split, seed) in `predictions`, with the columns COLUMNS.

    `kind` is "survival" or "classification"; `slides` holds the same runs' predictions per slide, with `slide_id`, as
    of `of_each_slide`. A metric that the data cannot answer is NaN and `note` says why; `note` is
    empty otherwise. `case_low` and `case_high` are the 95 % bootstrap interval over the test cases of harrell_c, and
    of slide_harrell_c, for which a case is drawn with all its slides (NaN for the other metrics), for protocols with
    a single split. The sizes are numbers of cases for every metric. `own_censoring` takes censoring weights from the
    test cases instead of the training part, for cases of another cohort with a follow-up of its own. Raises InputError
    where the predictions break their contract.
    """
    check_predictions(predictions, kind)
    if slides is None or slides.empty:
        of_slides = {}
    else:
        check_predictions(slides, kind, unit="slide_id")
        of_slides = dict(list(slides.sort_values(["case_id", "slide_id"]).groupby(["split", "seed"])))
    rows = []
    # Sorted, so that the bootstrap does not depend on the order of the file
    for (split, seed), run in predictions.sort_values("case_id").groupby(["split", "seed"], sort=True):
        train, test = run[run["part"] == "train"], run[run["part"] == "test"]
        sizes = {
            "split": split,
            "seed": seed,
            "n_train": len(train),
            "n_test": len(test),
            "n_events_test": int((test["event"] == 1).sum()),
        }
        metrics = (
            _survival_metrics(test if own_censoring else train, test)
            if kind == "survival"
            else _classification_metrics(test)
        )
        metrics += _slide_metrics(of_slides.get((split, seed)), kind)
        rows += [{**sizes, **metric} for metric in metrics]
    return pd.DataFrame(rows, columns=COLUMNS)


def of_each_slide(predictions: pd.DataFrame, slides: pd.DataFrame, index: pd.DataFrame | None) -> pd.DataFrame:
    """Predictions per slide: a run's own, or, where its rows are cases, those of each test case for all its slides.

    The second is how papers that count slides count a model that reads none of them.

    Args:
        predictions, slides: of one run; `slides` is empty where its rows are cases.
        index: `case_id, slide_id` of the cohort's slides or their regions; None where the task asks for none.
    Raises InputError naming a test case without a slide.
    """
    if index is None or not slides.empty:
        return slides
    test = predictions[predictions["part"] == "test"]
    repeated = test.merge(index[["case_id", "slide_id"]].drop_duplicates(), on="case_id", how="left")
    if (without := repeated["slide_id"].isna()).any():
        raise InputError(f"the case {repeated.loc[without, 'case_id'].iloc[0]} has no slide to be counted by")
    return repeated


def _survival_metrics(train: pd.DataFrame, test: pd.DataFrame) -> list[dict]:
    time, event, risk = (test[name].to_numpy(dtype=np.float64) for name in ("time_days", "event", "risk"))
    known = (time, event)

    def reference() -> tuple[np.ndarray, np.ndarray]:
        if train.empty:
            raise Undefined("no training cases in the predictions, so no censoring weights")
        return tuple(train[name].to_numpy(dtype=np.float64) for name in ("time_days", "event"))

    def times() -> np.ndarray:
        if test.empty:
            raise Undefined("no case")
        if test["survival_times"].isna().any():
            raise Undefined("the model gives no survival curves")
        return np.asarray(test["survival_times"].iloc[0], dtype=np.float64)

    metrics = [
        _row("harrell_c", lambda: survival.harrell_c(risk, time, event)),
        _row("uno_c", lambda: survival.uno_c(*reference(), *known, risk)),
        _row("time_auc", lambda: survival.time_dependent_auc(*reference(), *known, risk, times())),
        _row(
            "integrated_brier",
            lambda: survival.integrated_brier(
                *reference(), *known, survival=_stack(test, "survival", times().size), times=times()
            ),
        ),
    ]
    if not metrics[0]["note"]:
        metrics[0]["case_low"], metrics[0]["case_high"] = bootstrap_c_index(risk, time, event)
    return metrics


def _classification_metrics(test: pd.DataFrame) -> list[dict]:
    def row(name: str) -> dict:
        def value() -> float:
            if test.empty:
                raise Undefined("no case")
            return getattr(classification, name)(test["label"].to_numpy(), _stack(test, "probabilities"))

        return _row(name, value)

    return [row(name) for name in CLASSIFICATION_METRICS]


def _slide_metrics(slides: pd.DataFrame | None, kind: str) -> list[dict]:
    """Metrics of one run's test slides, each of which counts once."""
    if slides is None:
        note = "there are no predictions per slide"
        return [{"metric": name, "value": np.nan, "note": note} for name in SLIDE_METRICS[kind]]
    test = slides[slides["part"] == "test"]
    if kind == "classification":
        metrics = _classification_metrics(test)
        return [metric | {"metric": f"slide_{metric['metric']}"} for metric in metrics]
    time, event, risk = (test[name].to_numpy(dtype=np.float64) for name in ("time_days", "event", "risk"))
    metric = _row("slide_harrell_c", lambda: survival.harrell_c(risk, time, event))
    if not metric["note"]:
        case = pd.factorize(test["case_id"])[0]
        metric["case_low"], metric["case_high"] = bootstrap_c_index(risk, time, event, case)
    return [metric]


def _row(metric: str, compute: Callable[[], float]) -> dict:
    try:
        return {"metric": metric, "value": compute(), "note": ""}
    except Undefined as reason:
        return {"metric": metric, "value": np.nan, "note": str(reason)}


def _stack(frame: pd.DataFrame, column: str, width: int | None = None) -> np.ndarray:
    rows = np.array([np.asarray(row, dtype=np.float64) for row in frame[column]])
    return rows if width is None else rows.reshape(len(frame), width)

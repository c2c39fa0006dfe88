"""From predictions per case and per slide to a tidy frame of metrics: one row per split, seed and metric.

Metrics are of cases. Those of slides, which begin with `slide_`, are for comparison with papers that count each slide:
slides of one patient are not independent, so nothing that says how sure a figure is ever treats them as if they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from histofuse.evaluation import classification, survival
from histofuse.evaluation.predictions import check_predictions
from histofuse.evaluation.resampling import draw_counts, replicates
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
    "cases",
    "replicates",
]
OUTCOME = ["time_days", "event", "label"]


def score_run(
    predictions: pd.DataFrame,
    kind: str,
    slides: pd.DataFrame | None = None,
    own_censoring: bool = False,
    resampled: bool = False,
    anonymous: bool = False,
) -> pd.DataFrame:
    """Metrics of the test part of every (split, seed) in `predictions`, with the columns COLUMNS.

    A metric that the data cannot answer is NaN and `note` says why; `note` is empty otherwise. The sizes are numbers of
    cases for every metric. `cases` is a digest of the test cases and their outcomes, by which models are known to be
    scored on the same. `replicates` is the metric in each resample of the test cases (float64 [resample]; None where
    there is none), drawn alike for all models of the same cases, a case with all its slides.

    Args:
        kind: "survival" or "classification". slides: the same runs' predictions per slide, with `slide_id`, as of
        `of_each_slide`; nothing where there are none.
        own_censoring: take censoring weights from the test cases instead of the training part, for cases of another
        cohort: they undo how long these patients were followed, which the training cohort does not know.
        resampled: make replicates, which rest on the test cases of one split being those of all models.
        anonymous: models do not share their names of cases, so that these are told by their outcomes alone, and are not
        resampled.
    Raises InputError where the predictions break their contract.
    """
    check_predictions(predictions, kind)
    if slides is None or slides.empty:
        of_slides = {}
    else:
        check_predictions(slides, kind, unit="slide_id")
        of_slides = dict(list(slides.sort_values(["case_id", "slide_id"]).groupby(["split", "seed"])))
    rows = []
    # Sorted, so that resamples do not depend on the order of the file
    for (split, seed), run in predictions.sort_values("case_id").groupby(["split", "seed"], sort=True):
        train, test = run[run["part"] == "train"], run[run["part"] == "test"]
        sizes = {
            "split": split,
            "seed": seed,
            "n_train": len(train),
            "n_test": len(test),
            "n_events_test": int((test["event"] == 1).sum()),
            "cases": _digest(test, anonymous),
        }
        reference = test if own_censoring else train
        metrics = _survival_metrics(reference, test) if kind == "survival" else _classification_metrics(test)
        shown = of_slides.get((split, seed))
        metrics += _slide_metrics(shown, kind)
        weighing = train if kind == "survival" and not own_censoring else None
        found = _resample(weighing, test, shown, kind) if resampled and not anonymous else {}
        rows += [{**sizes, **metric, "replicates": found.get(metric["metric"])} for metric in metrics]
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

    return [
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
    return [_row("slide_harrell_c", lambda: survival.harrell_c(risk, time, event))]


def _digest(test: pd.DataFrame, anonymous: bool) -> str:
    """Of the test cases and their outcomes, whatever their order and the types of the columns."""
    outcome = test[OUTCOME].apply(pd.to_numeric, errors="coerce").astype("float64")
    named = outcome if anonymous else outcome.assign(case_id=test["case_id"])
    text = named.sort_values(list(named)).to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resample(
    train: pd.DataFrame | None, test: pd.DataFrame, slides: pd.DataFrame | None, kind: str
) -> dict[str, np.ndarray]:
    """Replicates of all metrics of one run; `train` gives censoring weights, or if it is None the drawn cases do."""
    if test.empty:
        return {}
    reference = None if train is None else tuple(train[name].to_numpy(np.float64) for name in ("time_days", "event"))
    counts = draw_counts(len(test))
    found = replicates(test, kind, counts, reference)
    slides = slides if slides is None else slides[slides["part"] == "test"]
    if slides is not None and not slides.empty:
        slides = slides.assign(survival_times=None)  # there is no metric of slides' curves
        case = pd.Index(test["case_id"]).get_indexer(slides["case_id"])
        if (case < 0).any():
            stray = slides["case_id"].to_numpy()[case < 0][0]
            raise InputError(f"there is a test slide of the case {stray}, which is no test case")
        found |= {f"slide_{name}": values for name, values in replicates(slides, kind, counts[:, case]).items()}
    return found


def _row(metric: str, compute: Callable[[], float]) -> dict:
    try:
        return {"metric": metric, "value": compute(), "note": ""}
    except Undefined as reason:
        return {"metric": metric, "value": np.nan, "note": str(reason)}


def _stack(frame: pd.DataFrame, column: str, width: int | None = None) -> np.ndarray:
    rows = np.array([np.asarray(row, dtype=np.float64) for row in frame[column]])
    return rows if width is None else rows.reshape(len(frame), width)

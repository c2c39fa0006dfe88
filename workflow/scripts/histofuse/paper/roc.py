"""ROC curves of classifiers, each class against the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from histofuse.evaluation.predictions import check_predictions
from histofuse.evaluation.resampling import auc_replicates, draw_counts
from histofuse.evaluation.summary import SETTING, summarise
from histofuse.io import InputError
from histofuse.paper.style import GREY, STYLE, look, set_heading

GRID = np.linspace(0, 1, 201)  # false-positive rates at which curves are averaged
PANELS_A_ROW = 4


def roc_curve(positive, score) -> tuple[np.ndarray, np.ndarray]:
    """Corners (false-positive rate, true-positive rate) of the ROC curve, from (0, 0) to (1, 1).

    Tied scores make one corner, so that the area under the straight lines between corners counts ties one half.
    """
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of each run of equal scores
    rates = [np.cumsum(chosen[order])[last] / chosen.sum() for chosen in (~positive, positive)]
    return tuple(np.concatenate([[0.0], rate]) for rate in rates)


def class_curves(predictions: pd.DataFrame, k: int) -> tuple[np.ndarray, pd.DataFrame]:
    """ROC curves of class `k` against the rest on the test parts: (true-positive rates [split, GRID], areas).

    Rates are means over the seeds of a split. The areas are the metrics of `evaluation.summary`, a line per split and
    seed, with replicates where there is one split; where the test part has no case of the class, or none but of it,
    they are NaN and the split has no curve.
    """
    curves, areas = [], []
    one_split = predictions["split"].nunique() == 1
    for split, of_split in predictions.groupby("split"):
        of_seeds = []
        for seed, run in of_split.groupby("seed"):
            test = run[run["part"] == "test"].sort_values("case_id")
            positive = (test["label"] == k).to_numpy(dtype=bool)
            sizes = {"n_train": int((run["part"] == "train").sum()), "n_test": len(test)}
            line = {"split": split, "seed": seed, **sizes, "cases": "", "replicates": None}
            if positive.all() or not positive.any():
                areas.append(line | {"value": np.nan, "note": f"one class only in split {split}"})
                continue
            score = np.array([row[k] for row in test["probabilities"]])
            x, y = roc_curve(positive, score)
            resampled = auc_replicates(positive, score, draw_counts(len(test))) if one_split else None
            areas.append(line | {"value": float(np.trapezoid(y, x)), "note": "", "replicates": resampled})
            of_seeds.append(np.interp(GRID, x, y))  # at a step, its upper end
        if of_seeds:
            curves.append(np.mean(of_seeds, axis=0))
    return np.array(curves).reshape(-1, GRID.size), pd.DataFrame(areas)


def roc_figure(predictions: Mapping[str, pd.DataFrame], classes: Sequence[str], title: str) -> Figure:
    """A panel per class, a curve per model (the keys): the mean over splits, with a band of one standard deviation.

    The legend gives the mean area under the curve of each model and its 95 % interval as tables do: corrected for the
    overlap of the splits, or with a single split of a bootstrap over its test cases.
    """
    for label, frame in predictions.items():
        check_predictions(frame, "classification")
        if len(frame["probabilities"].iloc[0]) != len(classes):
            raise InputError(f"{label}: predictions of {len(frame['probabilities'].iloc[0])} classes; known: {classes}")
    columns = min(len(classes), PANELS_A_ROW)
    rows = -(-len(classes) // columns)
    with mpl.rc_context(STYLE):
        height = rows * (2.05 + 0.14 * (len(predictions) + 1)) + 0.2
        figure = Figure(figsize=(1.8 * columns + 1.6, height), layout="compressed")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for k, (axes, name) in enumerate(zip(panels, classes)):
            axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.8)
            drawn = [_draw(axes, *class_curves(frame, k), place) for place, frame in enumerate(predictions.values())]
            axes.set(title=name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="1 − specificity")
            axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.32), "fontsize": 6.5, "title_fontsize": 6.5}
            axes.legend(*zip(*drawn), title="AUC (95 % interval)", handlelength=2, borderaxespad=0, **below)
        for axes in panels[::columns]:
            axes.set_ylabel("Sensitivity")
        for axes in panels[len(classes) :]:
            axes.remove()
        lines = [line for line, _ in drawn]
        figure.legend(lines, predictions.keys(), loc="outside right upper", fontsize=7, handlelength=2.5)
        set_heading(figure, title)
    return figure


def _draw(axes, curves: np.ndarray, areas: pd.DataFrame, place: int) -> tuple[Line2D, str]:
    """The line, and what the legend says of the area under it."""
    area = summarise(areas.assign(row="", metric="auc", **dict.fromkeys(SETTING, "")), reference=None).iloc[0]
    if not len(curves):
        return axes.plot([], [], **look(place))[0], "not defined"
    interval = f" ({area['ci_low']:.2f}–{area['ci_high']:.2f})" if pd.notna(area["ci_low"]) else ""
    total = area["n_splits"] + area["n_splits_left_out"]
    left_out = f", {area['n_splits']} of {total} splits" if area["n_splits_left_out"] else ""
    mean = curves.mean(axis=0)
    line = axes.plot([0, *GRID], [0, *mean], linewidth=1.3, **look(place))[0]
    if len(curves) > 1:
        sd = curves.std(axis=0, ddof=1)
        ends = np.clip([mean - sd, mean + sd], 0, 1)
        axes.fill_between(GRID, *ends, color=look(place)["color"], alpha=0.12, linewidth=0)
    return line, f"{area['estimate']:.2f}{interval}{left_out}"

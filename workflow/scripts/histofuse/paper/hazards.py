"""Histogram of predicted risks, of those who died and of those who were censored."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histofuse.evaluation.predictions import check_predictions
from histofuse.io import InputError
from histofuse.paper.style import BLUE, GREY, STYLE, VERMILLION, set_heading

OUTCOMES = {1: ("Died", VERMILLION, "-"), 0: ("Censored", BLUE, "--")}
MOST_BINS = 30


def standardise(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every prediction for a test case: `case_id, split, seed, event, value`.

    A log hazard has no zero of its own and models of different splits have different scales, so that `value` is
    (risk − median) / standard deviation of the run's training risks: above 0 lies the high predicted risk of
    `kaplan_meier.risk_groups`. A case has a value for each run that tests it.
    """
    check_predictions(predictions, "survival")
    train = predictions[predictions["part"] == "train"].groupby(["split", "seed"])["risk"]
    scale = pd.DataFrame({"median": train.median(), "sd": train.std(ddof=0)}).reset_index()
    test = predictions[predictions["part"] == "test"].merge(scale, on=["split", "seed"], how="left")
    if test.empty or test["median"].isna().any():
        raise InputError("the histogram needs test cases, and training cases in every split: they set the scale")
    test["value"] = (test["risk"] - test["median"]) / test["sd"].where(test["sd"] > 0, 1.0)
    return test[["case_id", "split", "seed", "event", "value"]]


def hazards_figure(values: pd.DataFrame, title: str) -> Figure:
    """Histograms of `standardise`, in per cent of the predictions for those who died and for the censored."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.9), layout="constrained")
        axes = figure.subplots()
        edges = _edges(values["value"].to_numpy())
        for event, (label, colour, line) in OUTCOMES.items():
            of_outcome = values[values["event"] == event]
            shares = np.histogram(of_outcome["value"], edges)[0] * 100 / max(len(of_outcome), 1)
            label = f"{label}: {len(of_outcome)} predictions for {of_outcome['case_id'].nunique()} cases"
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.2)
            axes.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.3, label=label)
        axes.axvline(0, color=GREY, linestyle=":", linewidth=0.8, label="Median of the training risks")
        axes.set(xlabel="Predicted risk above the training median\n(standard deviations of the training risks)")
        axes.set(ylabel="Share of predictions (%)", ylim=(0, None))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        set_heading(figure, title)
    return figure


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of bins of one width (Freedman and Diaconis), one of them 0: no bin holds both low and high risks."""
    chosen = np.histogram_bin_edges(values, "fd")
    width = max(chosen[1] - chosen[0], np.ptp(values) / MOST_BINS)
    return np.arange(np.floor(values.min() / width), np.floor(values.max() / width) + 2) * width

"""Kaplan–Meier curves of test cases by predicted risk."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from matplotlib.figure import Figure

from histofuse.evaluation.predictions import check_predictions
from histofuse.io import InputError
from histofuse.paper.style import BLUE, STYLE, VERMILLION, set_heading

GROUPS = {"low": ("Low predicted risk", BLUE, "-"), "high": ("High predicted risk", VERMILLION, "--")}
DAYS_PER_YEAR = 365.25


def risk_groups(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every test case once: `case_id, time_days, event, group` ("low" or "high").

    In each split and seed a test case is high if its risk exceeds the median of the training risks, so that no test
    outcome or risk sets the threshold. A case tested by several models is high if at least half of them say so.
    """
    check_predictions(predictions, "survival")
    train = predictions[predictions["part"] == "train"]
    test = predictions[predictions["part"] == "test"]
    threshold = train.groupby(["split", "seed"])["risk"].median().rename("threshold").reset_index()
    test = test.merge(threshold, on=["split", "seed"], how="left")
    if test.empty or test["threshold"].isna().any():
        raise InputError(
            "risk groups need test cases, and training cases in every split: their median is the threshold"
        )
    test["high"] = test["risk"] > test["threshold"]
    cases = test.groupby("case_id").agg(
        time_days=("time_days", "first"), event=("event", "first"), high=("high", "mean")
    )
    cases["group"] = np.where(cases.pop("high") >= 0.5, "high", "low")
    return cases.reset_index()


def kaplan_meier_figure(groups: pd.DataFrame, title: str) -> Figure:
    """Survival of the groups of `risk_groups` with 95 % bands, censoring ticks and the numbers at risk."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 3.7), layout="constrained")
        axes, table = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        years = groups["time_days"] / DAYS_PER_YEAR
        ticks = _year_ticks(years.max())
        for place, (group, (label, colour, line)) in enumerate(GROUPS.items()):
            inside = groups["group"] == group
            if inside.any():
                _draw_curve(
                    axes, years[inside], groups.loc[inside, "event"], f"{label} (n = {inside.sum()})", colour, line
                )
            for tick in ticks:
                table.text(tick, -place, str((years[inside] >= tick).sum()), ha="center", va="center", color=colour)
        axes.set(ylim=(0, 1.02), xlim=(0, years.max() * 1.02), ylabel="Overall survival")
        set_heading(figure, title)
        legend = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "alignment": "left"}
        axes.legend(**legend, handlelength=2.5, title=_log_rank(groups, years))
        table.set(ylim=(-1.6, 0.9), yticks=[0, -1], yticklabels=["Low", "High"], xticks=ticks, xlabel="Years")
        table.set_title("Number at risk", loc="left")
        table.tick_params(axis="y", length=0, pad=9)  # clear of the numbers at year 0
        table.spines["left"].set_visible(False)
    return figure


def _draw_curve(axes, years, event, label, colour, line) -> None:
    fitted = KaplanMeierFitter().fit(years, event)
    curve, band = fitted.survival_function_.iloc[:, 0], fitted.confidence_interval_
    axes.step(curve.index, curve, where="post", color=colour, linestyle=line, linewidth=1.3, label=label)
    axes.fill_between(band.index, band.iloc[:, 0], band.iloc[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)
    censored = np.sort(years[event == 0].to_numpy())
    axes.plot(
        censored, fitted.survival_function_at_times(censored), "|", color=colour, markersize=4, markeredgewidth=0.7
    )


def _log_rank(groups: pd.DataFrame, years: pd.Series) -> str:
    high = groups["group"] == "high"
    if high.all() or not high.any() or not groups["event"].any():
        return "log-rank: not defined"
    event = groups["event"]
    p = logrank_test(years[high], years[~high], event[high], event[~high]).p_value
    return "log-rank p < 0.001" if p < 0.001 else f"log-rank p = {p:.3f}"


def _year_ticks(longest: float) -> np.ndarray:
    step = max(1, int(np.ceil(longest / 6)))
    return np.arange(0, longest + 1e-9, step)

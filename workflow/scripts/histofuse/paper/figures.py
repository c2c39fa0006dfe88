"""Figures of the paper: Kaplan–Meier curves by predicted risk, and a table drawn as intervals."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from matplotlib.figure import Figure

from histofuse.evaluation.predictions import check_predictions
from histofuse.io import InputError
from histofuse.paper.render import METRIC_NAMES
from histofuse.paper.style import BLACK, BLUE, GREY, STYLE, VERMILLION, set_heading

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


def table_figure(table: pd.DataFrame, metric: str, title: str, simulated: bool = False) -> Figure:
    """One `metric` of a table: estimates, the papers' interval (thick) and the corrected one (thin), published figures.

    The interval of a row that was scored on another cohort is dashed. Rows that were not run stay in their place and
    say so.
    """
    lines = table[table["metric"] == metric].reset_index(drop=True)
    if lines.empty:
        raise InputError(f"the table has no {metric}; it has {', '.join(table['metric'].unique())}")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 1.1 + 0.26 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for place, line in lines.iterrows():
            _draw_row(axes, -place, line, simulated)
        reference = lines[lines["row"] == lines["reference_row"]]
        if reference["estimate"].notna().any():
            axes.axvline(reference["estimate"].iloc[0], color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        axes.set(yticks=-lines.index.to_numpy(), yticklabels=lines["row"], ylim=(-len(lines) + 0.4, 0.6))
        axes.set(xlabel=METRIC_NAMES.get(metric, metric))
        set_heading(figure, f"{title} (simulated cohort)" if simulated else title)
        axes.tick_params(axis="y", length=0)
        handles, labels = axes.get_legend_handles_labels()
        by_label = dict(zip(labels, handles))
        if by_label:
            axes.legend(by_label.values(), by_label.keys(), loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)
        not_run = lines.index[lines["status"] != "run"]
        for place in not_run:
            axes.text(
                0.01, -place, "not run", transform=axes.get_yaxis_transform(), va="center", color=GREY, fontsize=7
            )
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


def _draw_row(axes, place: int, line: pd.Series, simulated: bool) -> None:
    if pd.notna(line["ci_low"]):
        label, style = "Corrected 95 % interval" if line["n_splits"] > 1 else "95 % bootstrap over cases", "-"
        if line["n_external"]:
            label, style = f"95 % bootstrap over\ncases of {line['scored_on']}", (0, (4, 1.5))
        axes.plot([line["ci_low"], line["ci_high"]], [place] * 2, color=BLUE, linewidth=1, linestyle=style, label=label)
    if pd.notna(line["half_width_t"]):
        ends = np.clip(line["estimate"] + np.array([-1, 1]) * line["half_width_t"], 0, 1)  # every metric lies between
        axes.plot(
            ends, [place, place], color=BLUE, linewidth=3.5, solid_capstyle="butt", label="t-interval, as printed"
        )
    if pd.notna(line["estimate"]):
        axes.plot(line["estimate"], place, "o", color=BLACK, markersize=4, zorder=3, linestyle="", label="Estimate")
    if pd.notna(line["published"]) and not simulated:
        style = {"markerfacecolor": "none", "markeredgecolor": VERMILLION, "markersize": 5, "linestyle": ""}
        axes.plot(line["published"], place, "D", **style, zorder=4, label="Published")


def _year_ticks(longest: float) -> np.ndarray:
    step = max(1, int(np.ceil(longest / 6)))
    return np.arange(0, longest + 1e-9, step)

"""A paper's table: which runs belong to which row, what was published, and what could not be run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.evaluation.summary import SETTING, summarise
from histofuse.io import InputError

COLUMNS = [
    "table",
    "row",
    "cohort",
    "task",
    "metric",
    "estimate",
    "ci_low",
    "ci_high",
    "n_splits",
    "n_seeds",
    "published",
    "published_ci",
    "p_value",
    "p_adjusted",
    "reference_row",
    "protocol",
    "half_width_t",
    "status",
    "note",
    "seed_sd",
    "t",
    "test",
    "cohort_label",
    "task_label",
    "scored_on_label",
    "n_external",
    "scored_on",
]
PUBLISHED_COLUMNS = ["table", "row", "cohort", "task", "metric", "published", "published_ci", "note"]
MEASURED = ["estimate", "ci_low", "ci_high", "half_width_t", "p_value", "p_adjusted", "seed_sd", "t", "test"]
COUNTS = ["n_splits", "n_seeds", "n_external"]


def summarise_rows(entry: dict, metrics: pd.DataFrame) -> pd.DataFrame:
    """Summary (columns of `evaluation.summary`) of the rows of a table `entry` that have runs in `metrics`.

    `metrics` is the concatenation of all metrics files of the table; each row takes those of its own cohort,
    task, protocol, model and `scored_on`, and of its `seeds` unless these are None (released predictions have a seed
    of their own). Rows without runs are absent from the summary.
    """
    parts = [_of_row(row, entry["metrics"], metrics).assign(row=row["label"]) for row in table_rows(entry)]
    chosen = pd.concat(parts, ignore_index=True)
    return summarise(chosen, reference=entry.get("reference_row"), test_to_train=entry.get("test_to_train"))


def build_table(
    entry: dict,
    summary: pd.DataFrame,
    published: pd.DataFrame | None = None,
    unavailable: dict[str, str] | None = None,
    name: str = "",
    simulated: bool = False,
    labels: dict[str, dict[str, str]] | None = None,
) -> pd.DataFrame:
    """The table of `entry` with the columns COLUMNS: one line per row and metric, in the order of the entry.

    `published` holds the papers' figures (columns PUBLISHED_COLUMNS), `unavailable` the reason for each row
    label that could not be run: such a row keeps its published figure and its `status` says why. A row that
    has neither runs nor a reason raises InputError, as does a published name that the papers' figures lack.
    `status` is "run" or "not run: <reason>"; `note` counts splits without a value. For a `simulated` cohort
    the published figures are left out. `scored_on` is the other cohort whose `n_external` cases a row was scored on,
    and empty in rows that were scored on the test parts of their own. `labels` holds what readers are shown of a
    `cohort` and a `task` instead of its name, which stands in the columns `…_label`.
    """
    unavailable = unavailable or {}
    of_cohorts, of_tasks = ((labels or {}).get(key, {}) for key in ("cohort", "task"))
    figures = None if simulated else published
    measured = summary.set_index(["row", "metric"])
    lines = []
    for row in table_rows(entry):
        label = row["label"]
        for metric in entry["metrics"]:
            line = {"table": name, "row": label, "metric": metric, **{key: row[key] for key in SETTING}}
            if label in unavailable:
                line["status"] = f"not run: {unavailable[label]}"
            elif (label, metric) in measured.index:
                line |= _measured(measured.loc[(label, metric)])
            else:
                raise InputError(
                    f"table {name}: row {label!r} has no {metric} of model {row['model']} on {row['cohort']}, "
                    f"{row['task']}, {row['protocol']}, and no reason why; run it, or say why it cannot be run"
                )
            line |= _published_figure(figures, row, metric, name)
            line["reference_row"] = entry.get("reference_row", "")
            line["scored_on"] = row["scored_on"]
            line["cohort_label"] = of_cohorts.get(row["cohort"], row["cohort"])
            line["task_label"] = of_tasks.get(row["task"], row["task"])
            line["scored_on_label"] = of_cohorts.get(row["scored_on"], row["scored_on"])
            lines.append(line)
    table = pd.DataFrame(lines).reindex(columns=COLUMNS)
    table[COUNTS] = table[COUNTS].fillna(0).astype("int64")
    table[["note", "test"]] = table[["note", "test"]].fillna("")
    return table


def unavailable_rows(entry: dict, reasons: dict[str, str]) -> dict[str, str]:
    """Why rows cannot be run, by label, from why their cohorts cannot be had, by cohort (`reasons`)."""
    rows = {row["label"]: (row["cohort"], row["scored_on"]) for row in table_rows(entry)}
    found = {label: [reasons[name] for name in cohorts if name in reasons] for label, cohorts in rows.items()}
    return {label: "; ".join(of_row) for label, of_row in found.items() if of_row}


def table_rows(entry: dict) -> list[dict]:
    """Rows of an entry, each with its own or the entry's cohort, task, protocol and seeds; `scored_on` may be ""."""
    rows = [{**{key: entry.get(key) for key in (*SETTING, "seeds")}, "scored_on": "", **row} for row in entry["rows"]]
    labels = [row["label"] for row in rows]
    repeated = {label for label in labels if labels.count(label) > 1}
    if repeated:
        raise InputError(f"table rows must have different labels; more than once: {', '.join(sorted(repeated))}")
    reference = entry.get("reference_row")
    if reference is not None and reference not in labels:
        raise InputError(f"reference_row {reference!r} is no row of the table; rows: {', '.join(labels)}")
    return rows


def check_published(published: pd.DataFrame, path: str = "published figures") -> pd.DataFrame:
    """The papers' figures if they keep the contract: the columns, fractions from 0 to 1, each figure once."""
    missing = [name for name in PUBLISHED_COLUMNS if name not in published]
    if missing:
        raise InputError(f"{path}: lacks the column {', '.join(missing)}")
    for name in ("published", "published_ci"):
        bad = published[name].notna() & ~pd.to_numeric(published[name], errors="coerce").between(0, 1)
        if bad.any():
            line = published[bad].iloc[0]
            raise InputError(f"{path}: row {line['row']!r} has {name} = {line[name]}; needed: a fraction from 0 to 1")
    repeated = published[published.duplicated(["row", "task", "metric"])]
    if not repeated.empty:
        line = repeated.iloc[0]
        raise InputError(f"{path}: row {line['row']!r} has {line['metric']} of {line['task']} more than once")
    return published


def _of_row(row: dict, names: list[str], metrics: pd.DataFrame) -> pd.DataFrame:
    metrics = metrics if "scored_on" in metrics else metrics.assign(scored_on="")
    wanted = np.ones(len(metrics), dtype=bool)
    for key in (*SETTING, "model", "scored_on"):
        wanted &= (metrics[key] == row[key]).to_numpy()
    wanted &= metrics["metric"].isin(names).to_numpy()
    if row["seeds"] is not None:
        wanted &= metrics["seed"].isin(row["seeds"]).to_numpy()
    return metrics[wanted]


def _measured(result: pd.Series) -> dict:
    line = {key: result[key] for key in [*MEASURED, *COUNTS]}
    line["status"] = "run"
    if result["n_splits_left_out"]:
        total = result["n_splits"] + result["n_splits_left_out"]
        line["note"] = f"{result['n_splits_left_out']} of {total} splits left out: {result['note']}"
    return line


def _published_figure(figures: pd.DataFrame | None, row: dict, metric: str, name: str) -> dict:
    if figures is None or "published" not in row:
        return {}
    of_row = figures[(figures["row"] == row["published"]) & (figures["task"] == row["task"])]
    if of_row.empty:
        known = ", ".join(figures["row"].unique())
        raise InputError(f"table {name}: nothing published as {row['published']!r} for {row['task']}; known: {known}")
    figure = of_row[of_row["metric"] == metric]
    return {} if figure.empty else figure[["published", "published_ci"]].iloc[0].to_dict()

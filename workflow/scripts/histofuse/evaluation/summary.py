"""From metrics per split and seed to one estimate, its intervals and one test per row of a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.evaluation.bootstrap import mean_replicates, paired_p_value, percentile_interval
from histofuse.evaluation.statistics import corrected_half_width, corrected_paired_test, holm, t_half_width
from histofuse.io import InputError

SETTING = ["cohort", "task", "protocol"]  # rows are only ever tested against each other within one setting
COLUMNS = [
    "row",
    *SETTING,
    "metric",
    "estimate",
    "half_width_t",
    "ci_low",
    "ci_high",
    "n_splits",
    "n_splits_left_out",
    "n_seeds",
    "seed_sd",
    "t",
    "p_value",
    "p_adjusted",
    "note",
    "test",
    "n_external",
    "scored_on",
]
# What `test` says.
PAIRED_T = "corrected paired t over splits"
PAIRED_BOOTSTRAP = "paired bootstrap over cases"
OTHER_CASES = "not tested: scored on other cases than the reference row"


def summarise(metrics: pd.DataFrame, reference: str | None, test_to_train: float | None = None) -> pd.DataFrame:
    """One row (columns COLUMNS) per table row and metric.

    `metrics` is the tidy frame of `score_run` plus `row`, `cohort`, `task` and `protocol`. The estimate is
    the mean over splits of the mean over seeds. A split where a seed has no value is left out and counted.
    `half_width_t` is the papers' interval, `ci_low` and `ci_high` the corrected one over splits. `seed_sd` is the
    standard deviation over seeds, within splits. `t` and `p_value` are of the corrected paired test against the row
    `reference` on the splits both have, `p_adjusted` its Holm adjustment over the other rows of the same metric.
    `test_to_train` is n_test/n_train for predictions that came without their training cases; elsewhere the
    sizes in `metrics` are used.

    With a single split, `ci_low` and `ci_high` are the bootstrap interval of the estimate over its test cases, and
    `p_value` is the bootstrap's on the same resamples; `half_width_t` and `t` are empty. So it is for rows with
    `scored_on`, whose models all saw the same `n_external` cases of that other cohort: they are tested against a
    reference that was scored there for the same task, whatever it was trained on.

    `test` says which test it is, or that there is none as the row and the reference were scored on other cases.
    """
    if reference is not None and reference not in set(metrics["row"]):
        reference = None  # the reference itself could not be run: estimates stand, tests do not
    metrics = metrics if "scored_on" in metrics else metrics.assign(scored_on="")
    _refuse_repeats(metrics)
    parts = dict(list(metrics.groupby(["row", "metric"], sort=False)))
    per_split = {key: _per_split(part) for key, part in parts.items()}
    settings = metrics.drop_duplicates("row").set_index("row")[[*SETTING, "scored_on"]]
    rows = []
    for (label, metric), splits in per_split.items():
        setting = settings.loc[label].to_dict()
        row = {"row": label, **setting, "metric": metric, **_estimate(splits, test_to_train)}
        row |= {"t": np.nan, "p_value": np.nan, "test": ""}
        shared = bool(setting["scored_on"]) or len(splits) == 1  # all models were scored on the same cases
        if shared:
            row["ci_low"], row["ci_high"] = percentile_interval(_replicates(parts[label, metric], splits))
            row["half_width_t"] = np.nan
        if setting["scored_on"]:
            row["n_external"] = int(parts[label, metric]["n_test"].max())
        other = settings.loc[reference].to_dict() if reference not in (None, label) else {}
        if (reference, metric) in per_split and _comparable(setting, other):
            theirs = per_split[reference, metric]
            if not _same_cases(splits, theirs, shared):
                row["test"] = OTHER_CASES
            elif shared:
                row["p_value"] = paired_p_value(
                    _replicates(parts[label, metric], splits), _replicates(parts[reference, metric], theirs)
                )
            else:
                row["t"], row["p_value"] = _test_over_splits(splits, theirs, test_to_train)
        if np.isfinite(row["p_value"]):
            row["test"] = PAIRED_BOOTSTRAP if shared else PAIRED_T
        rows.append(row)
    summary = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_adjusted"])
    summary["p_adjusted"] = summary.groupby("metric")["p_value"].transform(lambda p: holm(p.to_numpy()))
    return summary[COLUMNS]


def _comparable(ours: dict, theirs: dict) -> bool:
    """Whether rows may be tested against each other: one setting, or one task on the cases of one other cohort."""
    if ours["scored_on"]:
        return all(ours[key] == theirs.get(key) for key in ("scored_on", "task"))
    return ours == theirs


def _same_cases(ours: pd.DataFrame, theirs: pd.DataFrame, shared: bool) -> bool:
    """Whether the cases are the same: of all models if they share them, else in each split that both have."""
    if shared:
        return set(ours["cases"]) == set(theirs["cases"])
    both = ours[["cases"]].join(theirs["cases"], how="inner", rsuffix="_theirs")
    return bool((both["cases"] == both["cases_theirs"]).all())


def _replicates(models: pd.DataFrame, splits: pd.DataFrame) -> np.ndarray | None:
    """Replicates of the mean over the models of those splits that have a value."""
    return mean_replicates(models[models["split"].isin(splits.index[splits["value"].notna()])])


def _refuse_repeats(metrics: pd.DataFrame) -> None:
    repeated = metrics[metrics.duplicated(["row", "metric", "split", "seed"])]
    if not repeated.empty:
        first = repeated.iloc[0]
        raise InputError(
            f"row {first['row']!r} has {first['metric']} twice for split {first['split']}, "
            f"seed {first['seed']}; give each run once"
        )


def _per_split(part: pd.DataFrame) -> pd.DataFrame:
    """One row per split; its value is NaN if that of any seed is."""
    grouped = part.groupby("split")
    frame = grouped.agg(
        value=("value", lambda v: v.mean(skipna=False)),
        seed_variance=("value", lambda v: v.var(ddof=1, skipna=False)),
        n_seeds=("seed", "nunique"),
        n_train=("n_train", "mean"),
        n_test=("n_test", "mean"),
        note=("note", "max"),
        cases=("cases", lambda cases: " ".join(sorted(set(cases)))),
    )
    return frame.sort_index()


def _estimate(splits: pd.DataFrame, test_to_train: float | None) -> dict:
    used = splits[splits["value"].notna()]
    values = used["value"].to_numpy()
    reasons = sorted(set(splits.loc[splits["value"].isna(), "note"]) - {""})
    row = {
        "estimate": values.mean() if values.size else np.nan,
        "half_width_t": t_half_width(values),
        "ci_low": np.nan,
        "ci_high": np.nan,
        "n_splits": values.size,
        "n_splits_left_out": len(splits) - values.size,
        "n_seeds": int(used["n_seeds"].max()) if values.size else 0,
        "seed_sd": np.sqrt(used["seed_variance"].mean()) if values.size else np.nan,
        "note": "; ".join(reasons),
    }
    if values.size > 1:
        half = corrected_half_width(values, _ratio(used, test_to_train))
        # Every metric here lies between 0 and 1; a symmetric interval of few splits can reach past them.
        row["ci_low"], row["ci_high"] = max(row["estimate"] - half, 0.0), min(row["estimate"] + half, 1.0)
    return row


def _test_over_splits(
    splits: pd.DataFrame, reference: pd.DataFrame, test_to_train: float | None
) -> tuple[float, float]:
    both = splits.join(reference["value"].rename("reference"), how="inner").dropna(subset=["value", "reference"])
    return corrected_paired_test(both["value"] - both["reference"], _ratio(both, test_to_train))


def _ratio(splits: pd.DataFrame, test_to_train: float | None) -> float:
    """n_test / n_train over the splits; the given one (or NaN: no interval) where training cases are absent."""
    if splits.empty or (splits["n_train"] == 0).any():
        return np.nan if test_to_train is None else test_to_train
    return float((splits["n_test"] / splits["n_train"]).mean())

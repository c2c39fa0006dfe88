"""How the rows of a table were tuned: all trials as one frame, and what the report says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pandas as pd

# Columns of a frame of trials that are not settings.
COLUMNS = ["row", "model", "split", "trial", "chosen", "metric", "seconds", "failed"]


def collect(trials: Sequence[pd.DataFrame], labels: Sequence[Mapping]) -> pd.DataFrame:
    """One row per trial: COLUMNS, then a column per setting, empty where a model does not have it.

    trials: frames of `histofuse.training.tuning.Tuned`; labels: `row, model, split` of each.
    """
    frames = []
    for frame, about in zip(trials, labels, strict=True):
        settings = [{key: _text(value) for key, value in json.loads(text).items()} for text in frame["settings"]]
        frames.append(pd.concat([frame.assign(**about)[COLUMNS], pd.DataFrame(settings, index=frame.index)], axis=1))
    return pd.concat(frames, ignore_index=True)


def summarise(trials: pd.DataFrame) -> pd.DataFrame:
    """What `collect` gives in one line per row of the table, for a reader.

    The inner metric is the mean over splits, of the entry's own settings (the first trial) where those did not fail and
    of the chosen ones; a setting that is a number is shown by its median, least and most over splits, another one by
    how many splits chose each value.
    """
    lines = []
    for label, of_row in trials.groupby("row", sort=False):
        chosen = of_row[of_row["chosen"]]
        line = {
            "row": label,
            "splits": len(chosen),
            "trials": len(of_row),
            "failed": int(of_row["failed"].fillna("").ne("").sum()),
            "own settings kept": int((chosen["trial"] == 0).sum()),
            "metric, own settings": of_row.loc[of_row["trial"] == 0, "metric"].mean(),
            "metric, chosen settings": chosen["metric"].mean(),
        }
        settings = [name for name in trials if name not in COLUMNS]
        lines.append(line | {name: _in_words(chosen[name].dropna()) for name in settings})
    return pd.DataFrame(lines)


def _in_words(values: pd.Series) -> str:
    numbers = pd.to_numeric(values, errors="coerce")
    if values.empty:
        return ""
    if numbers.notna().all():
        least, middle, most = numbers.min(), numbers.median(), numbers.max()
        return f"{middle:g}" if least == most else f"{middle:g} ({least:g} to {most:g})"
    return ", ".join(f"{value} {n}" for value, n in values.value_counts().items())


def _text(value):
    """A setting for a cell of a table: numbers as they are, lists and nothing as JSON."""
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else json.dumps(value)

"""A model entry with the settings that tuning chose."""

from __future__ import annotations

import copy
import json
from pathlib import Path


def with_settings(entry: dict, settings: dict) -> dict:
    """A model entry with these settings. Learning rates of branches keep their ratio to `lr` when that changes."""
    entry = copy.deepcopy(entry)
    for key, value in settings.items():
        *path, last = key.split(".") if key.startswith("params.") else ("training", key)
        part = entry
        for name in path:
            part = part[name]
        if key == "lr" and part.get("branch_lr") and "branch_lr" not in settings:
            part["branch_lr"] = {name: rate * value / part["lr"] for name, rate in part["branch_lr"].items()}
        part[last] = copy.deepcopy(value)
    return entry


def chosen_entry(entry: dict, file: str | Path | None) -> dict:
    """A model entry with the settings that tuning chose for a run (`tuning.json`); as it is where there is no file."""
    return with_settings(entry, json.loads(Path(file).read_text())["settings"]) if file else entry

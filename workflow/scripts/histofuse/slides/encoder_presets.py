"""Encoders by name: what the cards of their authors ask for, one row each in encoder_presets.tsv.

Columns: `library` (timm; histofuse for a model of ours; empty where neither can load it), `model` and `kwargs` (what
the model is made of), `stage` and `pooling` (see encoder_models.py), `input_px`, `interpolation`, `mean` and `std` (the
transform; empty: what timm says of the model), `dim` (width of a feature), `parameters` (millions of weights, by which
jobs ask for memory), `hub`, `revision` and `file` (the weights), `gated` (for readers: whether the hub asks for an
account), `licence`, `source` and `note`. A revision is a commit where one is known
to hold the weights, else `main`; the digest of the weights that were loaded stands beside every feature in any case.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from histofuse.io import InputError, read_table


@dataclass(frozen=True)
class Preset:
    """How an encoder is made. Fields left at None are the model's own affair."""

    name: str
    model: str
    library: str = "timm"
    kwargs: dict | None = None
    stage: int | None = None
    pooling: str | None = None
    input_px: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dim: int | None = None
    hub: str = ""
    revision: str = "main"
    file: str = ""
    licence: str = ""
    source: str = ""
    note: str = ""


def presets() -> dict[str, Preset]:
    """All rows of encoder_presets.tsv by name, the ones that cannot be loaded too."""
    table = read_table(Path(__file__).with_suffix(".tsv"), dtype=str, keep_default_na=False)
    return {row["name"]: _preset(row) for row in table.to_dict("records")}


def find_preset(name: str) -> Preset:
    """The preset of that name, or one that says no more than "the timm model of that name".

    Raises InputError for a preset that can only be had as features made elsewhere.
    """
    preset = presets().get(name, Preset(name, name))
    if not preset.library:
        raise InputError(
            f"encoder {name!r} cannot be loaded here: {preset.note} ({preset.source}). Extract its features with "
            "TRIDENT and name their folder in `slide_features` as `from`"
        )
    return preset


def _preset(row: dict[str, str]) -> Preset:
    def numbers(text: str) -> tuple[float, ...] | None:
        return tuple(map(float, text.split())) or None

    return Preset(
        **{
            key: row[key]
            for key in ("name", "library", "model", "hub", "revision", "file", "licence", "source", "note")
        },
        kwargs=dict(_value(part) for part in row["kwargs"].split()),
        stage=int(row["stage"]) if row["stage"] else None,
        pooling=row["pooling"] or None,
        input_px=int(row["input_px"]) if row["input_px"] else None,
        interpolation=row["interpolation"] or None,
        mean=numbers(row["mean"]),
        std=numbers(row["std"]),
        dim=int(row["dim"]),
    )


def _value(text: str) -> tuple[str, object]:
    """`key=value` with a number, true, false, or a word."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value

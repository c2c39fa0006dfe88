"""Walks from one cell type to another, in expression: how far along the walk an embedding says a mixture is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histofuse.genomics.smoothing.atlas import Atlas
from histofuse.genomics.smoothing.mixup import Mixes, mixes_of
from histofuse.io import InputError

METRICS = ("euclidean", "cosine")


@dataclass(frozen=True)
class Paths:
    """Walks of equal length, one after the other.

    Args:
        pairs: names of the pairs, "first → second".
        pair: [path] int64, index into `pairs`.
        weights: [step] λ from 0 to 1, the share of the first type.
        mixes: the mixtures [path · step], the steps of a path in a row.
    """

    pairs: list[str]
    pair: np.ndarray
    weights: np.ndarray
    mixes: Mixes


def first_pairs(classes: Sequence[str], number: int = 3) -> list[tuple[str, str]]:
    """Pairs of classes in the order given, no class twice while that is possible: (0, 1), (2, 3), …"""
    disjoint = list(zip(classes[::2], classes[1::2]))
    others = [(a, b) for k, a in enumerate(classes) for b in classes[k + 1 :] if (a, b) not in disjoint]
    return [*disjoint, *others][:number]


def paths(
    atlas: Atlas,
    pairs: Sequence[tuple[str, str]] | None = None,
    steps: int = 21,
    cells_per_pair: int = 50,
    seed: int = 0,
) -> Paths:
    """Walks between held-out cells of two classes: `weight` · cell of the first + (1 − weight) · cell of the second.

    Each pair gets `cells_per_pair` walks between cells drawn anew, with replacement; `pairs` are by default
    `first_pairs`. The profiles of `Paths.mixes` are made by `mixup.mixed_profiles`.
    """
    pairs = first_pairs(atlas.classes) if pairs is None else [tuple(pair) for pair in pairs]
    for pair in pairs:
        strange = [name for name in pair if name not in atlas.classes]
        if strange or len(pair) != 2 or pair[0] == pair[1]:
            what = (
                f"{strange[0]} is not a class of the atlas: {', '.join(atlas.classes)}" if strange else "two are needed"
            )
            raise InputError(f"pairs: {', '.join(pair)}: {what}")
    if steps < 2 or cells_per_pair < 1 or not pairs:
        raise InputError(f"pairs: {len(pairs)} pairs, {cells_per_pair} walks and {steps} steps; needed are 1, 1 and 2")
    held_out = atlas.cells("held_out")
    weights = np.linspace(0, 1, steps)
    first, second = [], []
    for pair in pairs:
        names = [atlas.classes.index(name) for name in pair]
        random = np.random.default_rng([seed, *names])  # a pair's walks do not depend on the others
        for name, ends in zip(names, (first, second)):
            ends.append(random.choice(held_out[atlas.labels[held_out] == name], cells_per_pair))
    i, j = (np.repeat(np.concatenate(ends), steps) for ends in (first, second))
    mixes = mixes_of(atlas, i, j, np.tile(weights, len(pairs) * cells_per_pair))
    number = np.repeat(np.arange(len(pairs)), cells_per_pair)
    return Paths([f"{a} → {b}" for a, b in pairs], number, weights, mixes)


def relative_distance(embeddings: np.ndarray, steps: int, metric: str = "euclidean") -> np.ndarray:
    """d(λ)/d(1) of every walk, [path, step]: the distance to the walk's end of λ = 0 by that between both ends.

    `embeddings` are [path · step, width] as in `Paths`. It is 0 at λ = 0 and 1 at λ = 1, and λ itself where a mixture
    lies between its parts as it does in expression. A walk between equal ends is NaN.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    values = np.asarray(embeddings, np.float64)
    if values.ndim != 2 or len(values) % steps:
        raise InputError(f"embeddings of the shape {values.shape} are no walks of {steps} steps")
    values = values.reshape(-1, steps, values.shape[1])
    if metric == "cosine":
        values = values / np.maximum(np.linalg.norm(values, axis=2, keepdims=True), 1e-12)
        distance = 1 - (values * values[:, :1]).sum(axis=2)
        distance[:, 0] = 0
    else:
        distance = np.linalg.norm(values - values[:, :1], axis=2)
    length = distance[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 0, distance / length, np.nan)


def distance_table(walks: Paths, spaces: Mapping[str, np.ndarray], metric: str = "euclidean") -> pd.DataFrame:
    """What the figure draws: `pair, space, weight, median, low, high` of the relative distance over a pair's walks.

    `spaces` are {name: [path · step, width]}, for instance the raw embedding and each smoothing of it; low and high
    are the quartiles. Pairs and spaces keep their order.
    """
    frames = []
    for space, embeddings in spaces.items():
        distance = _distances(walks, space, embeddings, metric)
        for number, pair in enumerate(walks.pairs):
            low, median, high = np.nanquantile(distance[walks.pair == number], [0.25, 0.5, 0.75], axis=0)
            columns = {
                "pair": pair,
                "space": space,
                "weight": walks.weights,
                "median": median,
                "low": low,
                "high": high,
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def straightness(walks: Paths, spaces: Mapping[str, np.ndarray], metric: str = "euclidean") -> pd.DataFrame:
    """How far the walks are from straight: `pair, space, deviation`, with the mean over pairs as pair "mean".

    The deviation is the mean over a pair's walks and inner steps of |d(λ)/d(1) − λ|; 0 is straight.
    """
    rows = []
    for space, embeddings in spaces.items():
        away = np.abs(_distances(walks, space, embeddings, metric) - walks.weights)[:, 1:-1]
        by_pair = [float(np.nanmean(away[walks.pair == number])) for number in range(len(walks.pairs))]
        rows += [(pair, space, value) for pair, value in zip(walks.pairs, by_pair)]
        rows.append(("mean", space, float(np.mean(by_pair))))
    return pd.DataFrame(rows, columns=["pair", "space", "deviation"])


def _distances(walks: Paths, space: str, embeddings: np.ndarray, metric: str) -> np.ndarray:
    if len(embeddings) != len(walks.mixes):
        raise InputError(f"space {space} has {len(embeddings)} rows, the walks have {len(walks.mixes)}")
    distance = relative_distance(embeddings, len(walks.weights), metric)
    for number, pair in enumerate(walks.pairs):
        if np.isnan(distance[walks.pair == number]).all():
            raise InputError(f"space {space}: both ends of every walk {pair} are the same point")
    return distance

"""Tabular features to numbers: categories, missing values, choice of columns, scaling; fitted on training cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histofuse.io import InputError


class BlockScaler:
    """Fit on the training cases of a block, apply to all.

    Text and boolean columns become indicators of the levels seen in training (the most frequent one is the
    reference; an unseen level gives zeros). Missing numbers take the training median. Constant columns go. What is
    left is z-scored and clipped, since published z-scores hold values such as 3,515.

    Args:
        columns: only these columns (default all).
        suffixes: only columns whose name ends in one of these (e.g. ["_mut"]).
        top_variance: share (below 1) or number of columns with the largest training variance to keep: the papers'
            highly variable genes.
        min_frequency: keep columns that differ from 0 in at least this share of training cases (alterations).
        clip: bound on |z|.
    """

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        suffixes: Sequence[str] | None = None,
        top_variance: float | None = None,
        min_frequency: float | None = None,
        clip: float = 5.0,
    ):
        self.columns = columns
        self.suffixes = suffixes
        self.top_variance = top_variance
        self.min_frequency = min_frequency
        self.clip = clip

    def fit(self, train: pd.DataFrame) -> BlockScaler:
        """Learn levels, columns, medians, means and standard deviations from the training cases [case, column]."""
        self.source = self._choose_columns(train)
        numeric = [name for name in self.source if _is_numeric(train[name])]
        self.levels = {
            name: train[name].dropna().astype(str).value_counts().sort_index(kind="stable").pipe(_by_frequency)[1:]
            for name in self.source
            if name not in numeric
        }
        self.median = train[numeric].astype(np.float64).median().fillna(0.0)
        values = self._expand(train)
        keep = values.std(axis=0) > 1e-12
        if self.min_frequency is not None:
            keep &= (values != 0).mean(axis=0) >= self.min_frequency
        if self.top_variance is not None:
            keep &= _most_variable(values, self.top_variance)
        if not keep.any():
            raise InputError(
                f"no usable column is left of {len(keep)} (all constant or filtered out) in the training part"
            )
        self.keep = keep
        self.mean, self.sd = values[:, keep].mean(axis=0), values[:, keep].std(axis=0)
        return self

    def apply(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 [case, kept feature], z-scored with the training part's figures and clipped."""
        z = (self._expand(frame)[:, self.keep] - self.mean) / self.sd
        return np.clip(z, -self.clip, self.clip).astype(np.float32)

    @property
    def names(self) -> list[str]:
        """Names of the kept features, `column=level` for an indicator."""
        indicators = [f"{name}={level}" for name, levels in self.levels.items() for level in levels]
        return [name for name, kept in zip([*self.median.index, *indicators], self.keep) if kept]

    def _choose_columns(self, train: pd.DataFrame) -> list[str]:
        if self.columns is not None:
            unknown = [name for name in self.columns if name not in train.columns]
            if unknown:
                raise InputError(
                    f"inputs: columns: no column {', '.join(unknown)}; there are {', '.join(train.columns)}"
                )
            return list(self.columns)
        if self.suffixes is not None:
            return [name for name in train.columns if name.endswith(tuple(self.suffixes))]
        return list(train.columns)

    def _expand(self, frame: pd.DataFrame) -> np.ndarray:
        numbers = frame[self.median.index].astype(np.float64).fillna(self.median).to_numpy()
        indicators = [
            (frame[name].astype("string") == level).fillna(False).to_numpy(np.float64)
            for name, levels in self.levels.items()
            for level in levels
        ]
        return np.column_stack([numbers, *indicators]) if indicators else numbers


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _by_frequency(counts: pd.Series) -> list[str]:
    return counts.sort_values(ascending=False, kind="stable").index.tolist()


def _most_variable(values: np.ndarray, top: float) -> np.ndarray:
    """Mask of the `top` share or number of columns by variance; ties go to the earlier column."""
    count = max(1, round(top * values.shape[1]) if top < 1 else min(int(top), values.shape[1]))
    mask = np.zeros(values.shape[1], dtype=bool)
    mask[np.argsort(-values.var(axis=0), kind="stable")[:count]] = True
    return mask

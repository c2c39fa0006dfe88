"""Tabular features to numbers: categories, missing values, choice of columns, scaling; fitted on training cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from histofuse.io import InputError

MIN_PER_SOURCE = 10  # training cases below which a source's own figures say too little
_WHOLE = ""  # the whole training part, beside the sources
_CONSTANT = 1e-12  # standard deviation, relative to 1 + |mean|, below which a column does not vary


@dataclass(frozen=True)
class Figures:
    """What was learnt of the training cases of one source, or of all: an entry per kept feature.

    reference: sorted training values [feature, case] (float32), with `quantile` only.
    """

    median: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    reference: np.ndarray | None


class BlockScaler:
    """Fit on the training cases of a block, apply to all.

    Text and boolean columns become indicators of the levels seen in training (the most frequent one is the
    reference; an unseen level gives zeros). Missing numbers take the training median. Constant columns go. What is
    left is z-scored and clipped, since published z-scores hold values such as 3,515.

    Args:
        columns: only these columns (default all).
        suffixes: only columns whose name ends in one of these (e.g. ["_mut"]).
        min_frequency: keep columns altered in at least this share of training cases: `_cnv` columns (GISTIC-like
            calls −2..2) where |call| ≥ `cnv_level`, others where they differ from 0.
        cnv_level: 2 counts homozygous deletions and amplifications only, 1 every gain and loss.
        clip: bound on |z|.
        per_source: medians, means and standard deviations by the case's source cohort, so that units and batches do
            not tell it. A source with fewer than `MIN_PER_SOURCE` training cases takes those of the whole part.
        quantile: normal scores through the training part's empirical distribution (of the source, with `per_source`)
            instead of z-scores. A value below, equal to or between training values has the probability
            (#{smaller} + #{smaller or equal}) / 2n, at least 1/2n and at most 1 − 1/2n.
        components: number of principal components of the scaled columns, at most training cases − 1. They share one
            scale, so that the first has standard deviation 1 in the training part. The sign is that which makes the
            largest loading positive.
        standardise: false leaves values (and constant columns) as they are; only missing ones are filled.
    """

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        suffixes: Sequence[str] | None = None,
        min_frequency: float | None = None,
        cnv_level: int = 2,
        clip: float = 5.0,
        per_source: bool = False,
        quantile: bool = False,
        components: int | None = None,
        standardise: bool = True,
    ):
        if not standardise and (quantile or per_source):
            raise InputError("standardise: false leaves values as they are; take quantile and per_source out")
        self.columns = columns
        self.suffixes = suffixes
        self.min_frequency = min_frequency
        self.cnv_level = cnv_level
        self.clip = clip
        self.per_source = per_source
        self.quantile = quantile
        self.components = components
        self.standardise = standardise

    def fit(self, train: pd.DataFrame, sources: pd.Series | None = None) -> BlockScaler:
        """Learn everything from the training cases [case, column]; with `per_source`, `sources` maps the index of
        `train` to a source.

        Then `numeric` lists the columns that are read as numbers, `levels` those read as text with their levels, and
        `figures[""]` is what was learnt of the whole training part.
        """
        if self.per_source and sources is None:
            raise InputError("per_source: nothing says which source a case is of")
        chosen = self._choose_columns(train)
        is_number = _are_numeric(train[chosen])
        numeric = [name for name, number in zip(chosen, is_number) if number]
        self.levels = {
            name: train[name].dropna().astype(str).value_counts().sort_index(kind="stable").pipe(_by_frequency)[1:]
            for name, number in zip(chosen, is_number)
            if not number
        }
        self._features = numeric + [f"{name}={level}" for name, levels in self.levels.items() for level in levels]
        self.numeric = numeric
        self.keep = np.ones(len(self._features), dtype=bool)
        source = self._source_of(train, sources)
        large = [key for key, count in source.value_counts().items() if count >= MIN_PER_SOURCE]
        members = {key: (source == key).to_numpy() for key in sorted(large)} if self.per_source else {}
        raw = self._raw(train)
        medians = self._medians(raw, members)
        if self.min_frequency is not None:
            self.keep = self._altered(_filled(raw, medians[_WHOLE])).mean(axis=0) >= self.min_frequency
            raw, medians = raw[:, self.keep], {key: values[self.keep] for key, values in medians.items()}
        values = np.empty_like(raw)
        group = self._group_of(source, members)
        for key in set(group):
            values[group == key] = _filled(raw[group == key], medians[key])
        if self.standardise:
            parts = [values[group == key] for key in sorted(set(group))]
            varies = np.any([_sd(part) > 0 for part in parts], axis=0)
            self.keep[self.keep] = varies
            values, medians = values[:, varies], {key: median[varies] for key, median in medians.items()}
        if not self.keep.any():
            raise InputError(
                f"no usable column is left of {len(self.keep)} (all constant or filtered out) in the training part"
            )
        self.figures = {_WHOLE: self._learn(values, medians[_WHOLE], None)}
        for key, rows in members.items():
            self.figures[key] = self._learn(values[rows], medians[key], self.figures[_WHOLE])
        if self.components is not None:
            self._fit_components(self._scale(values, group))
        return self

    def apply(self, frame: pd.DataFrame, sources: pd.Series | None = None) -> np.ndarray:
        """float32 [case, feature]: the kept columns scaled by the training part's figures, or their components."""
        raw = self._raw(frame)[:, self.keep]
        group = self._group_of(self._source_of(frame, sources), self.figures)
        values = np.empty_like(raw)
        for key in set(group):
            values[group == key] = _filled(raw[group == key], self.figures[key].median)
        values = self._scale(values, group)
        if self.components is not None:
            values = (values - self.centre) @ self.loadings.T
        return values.astype(np.float32)

    @property
    def names(self) -> list[str]:
        """Names of the kept columns, `column=level` for an indicator."""
        return [name for name, kept in zip(self._features, self.keep) if kept]

    def arrays(self) -> dict[str, np.ndarray]:
        """All fitted numbers, an entry per name in `names`: what a prediction on new cases needs beside the weights.

        `median`, `mean`, `sd` (and `reference`) of the whole training part, `<source>.mean` and so on of a source,
        `centre` and `loadings` [component, feature].
        """
        arrays = {}
        for key, figures in self.figures.items():
            prefix = f"{key}." if key else ""
            arrays[f"{prefix}median"] = figures.median
            if figures.reference is not None:
                arrays[f"{prefix}reference"] = figures.reference
            elif self.standardise:
                arrays |= {f"{prefix}mean": figures.mean, f"{prefix}sd": figures.sd}
        if self.components is not None:
            arrays |= {"centre": self.centre, "loadings": self.loadings}
        return arrays

    def _choose_columns(self, train: pd.DataFrame) -> list[str]:
        if self.columns is not None:
            known = set(train.columns)
            unknown = [name for name in self.columns if name not in known]
            if unknown:
                raise InputError(f"columns: no column {_first(unknown)}; there are {_first(train.columns)}")
            return list(self.columns)
        if self.suffixes is not None:
            return [name for name in train.columns if name.endswith(tuple(self.suffixes))]
        return list(train.columns)

    def _raw(self, frame: pd.DataFrame) -> np.ndarray:
        """float64 [case, feature]: numbers, NaN where missing, then indicators."""
        numbers = frame[self.numeric].to_numpy(np.float64, na_value=np.nan)
        indicators = [
            (frame[name].astype("string") == level).fillna(False).to_numpy(np.float64)
            for name, levels in self.levels.items()
            for level in levels
        ]
        return np.column_stack([numbers, *indicators]) if indicators else numbers

    def _source_of(self, frame: pd.DataFrame, sources: pd.Series | None) -> pd.Series:
        if not self.per_source:
            return pd.Series(_WHOLE, index=frame.index)
        return pd.Series(sources.reindex(frame.index).fillna(_WHOLE).astype(str).to_numpy(), index=frame.index)

    def _group_of(self, source: pd.Series, known: dict) -> np.ndarray:
        """Whose figures each case takes: its source's, or those of the whole part."""
        return source.where(source.isin(list(known)), _WHOLE).to_numpy(str)

    def _medians(self, raw: np.ndarray, members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        whole = _median(raw, np.zeros(raw.shape[1]))
        return {_WHOLE: whole} | {key: _median(raw[rows], whole) for key, rows in members.items()}

    def _altered(self, values: np.ndarray) -> np.ndarray:
        calls = np.array([name.endswith("_cnv") for name in self._features], dtype=bool)
        return np.where(calls, np.abs(values) >= self.cnv_level, values != 0)

    def _learn(self, values: np.ndarray, median: np.ndarray, whole: Figures | None) -> Figures:
        sd = _sd(values)
        if whole is not None:  # constant in this source: the source's mean in the whole part's unit
            sd = np.where(sd > 0, sd, whole.sd)
        reference = np.sort(np.ascontiguousarray(values.T, dtype=np.float32), axis=1) if self.quantile else None
        return Figures(median, values.mean(axis=0), sd, reference)

    def _scale(self, values: np.ndarray, group: np.ndarray) -> np.ndarray:
        if not self.standardise:
            return values
        scaled = np.empty_like(values)
        for key in set(group):
            rows, figures = group == key, self.figures[key]
            if self.quantile:
                scaled[rows] = _normal_scores(values[rows], figures.reference)
            else:
                scaled[rows] = (values[rows] - figures.mean) / figures.sd
        return np.clip(scaled, -self.clip, self.clip, out=scaled)

    def _fit_components(self, scaled: np.ndarray) -> None:
        self.centre = scaled.mean(axis=0)
        _, singular, loadings = np.linalg.svd(scaled - self.centre, full_matrices=False)
        found = singular > 1e-9 * singular[0]  # directions beyond the rank are rounding errors
        count = min(self.components, len(scaled) - 1, int(found.sum()))
        if not count:
            raise InputError("components: all training cases have the same values")
        loadings = loadings[:count]
        largest = loadings[np.arange(count), np.abs(loadings).argmax(axis=1)]
        unit = singular[0] / np.sqrt(len(scaled)) if self.standardise else 1.0
        self.loadings = loadings * (np.sign(largest) / unit)[:, None]


def _are_numeric(frame: pd.DataFrame) -> list[bool]:
    is_numeric, is_bool = pd.api.types.is_numeric_dtype, pd.api.types.is_bool_dtype
    kinds = {kind: is_numeric(kind) and not is_bool(kind) for kind in set(frame.dtypes)}
    return [kinds[kind] for kind in frame.dtypes]


def _by_frequency(counts: pd.Series) -> list[str]:
    return counts.sort_values(ascending=False, kind="stable").index.tolist()


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(list(names)[:count]) + (f" … ({len(names)} in all)" if len(names) > count else "")


def _median(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Medians of columns that ignore NaN; `otherwise` where nothing else is there."""
    gaps = np.isnan(values).any(axis=0)
    median = np.empty(values.shape[1])
    median[~gaps] = np.median(values[:, ~gaps], axis=0)
    median[gaps] = pd.DataFrame(values[:, gaps]).median().to_numpy()
    return np.where(np.isnan(median), otherwise, median)


def _filled(values: np.ndarray, median: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), median, values)


def _sd(values: np.ndarray) -> np.ndarray:
    """Standard deviations of columns, exactly 0 where they are rounding errors."""
    sd = values.std(axis=0)
    return np.where(sd > _CONSTANT * (1 + np.abs(values.mean(axis=0))), sd, 0.0)


def _normal_scores(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Normal scores of values [case, feature] in sorted training values [feature, training case].

    Ranks count in halves, so that all scores come from one short table.
    """
    n = reference.shape[1]
    inside = [NormalDist().inv_cdf(half / (2 * n)) for half in range(1, 2 * n)]
    table = np.array([inside[0], *inside, inside[-1]])
    columns = np.ascontiguousarray(values.T, dtype=np.float32)
    halves = np.empty(columns.shape, dtype=np.int64)
    for row, column, known in zip(halves, columns, reference):
        row[:] = known.searchsorted(column, "left") + known.searchsorted(column, "right")
    return table[halves].T

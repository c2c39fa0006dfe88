"""Intervals and tests over splits that share cases.

Repeated splits of one cohort reuse its cases, so their metrics are not independent and the usual t-interval
is far too narrow. The corrected forms add the share of test to training cases to the variance. Source: Nadeau
and Bengio (2003), Machine Learning 52:239.
"""

from __future__ import annotations

import numpy as np
from scipy import special  # of the package only what is needed: scipy.stats takes half a second to import


def t_half_width(values, level: float = 0.95) -> float:
    """Half the width of the t-interval of a mean, t·s/√J: the papers' "±". NaN for fewer than two values."""
    return _half_width(values, extra=0.0, level=level)


def corrected_half_width(values, test_to_train: float, level: float = 0.95) -> float:
    """Half the width of the corrected interval, t·s·√(1/J + n_test/n_train). NaN for fewer than two."""
    return _half_width(values, extra=test_to_train, level=level)


def corrected_paired_test(differences, test_to_train: float) -> tuple[float, float]:
    """Corrected resampled t-test that per-split `differences` [J] have mean zero: (t, two-sided p), J − 1
    degrees.

    (NaN, NaN) for fewer than two differences; equal models (all differences zero) give (0, 1).
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = differences.size
    if n < 2:
        return np.nan, np.nan
    mean = differences.mean()
    error = differences.std(ddof=1) * np.sqrt(1 / n + test_to_train)
    if error == 0:
        return (0.0, 1.0) if mean == 0 else (float(np.copysign(np.inf, mean)), 0.0)
    t = mean / error
    return float(t), float(2 * special.stdtr(n - 1, -abs(t)))


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjustment of `p_values` [m]; NaN are left out of the family and stay NaN.

    Source: Holm (1979), Scandinavian Journal of Statistics 6:65.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _half_width(values, extra: float, level: float) -> float:
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return np.nan
    t = special.stdtrit(values.size - 1, (1 + level) / 2)
    return float(t * values.std(ddof=1) * np.sqrt(1 / values.size + extra))

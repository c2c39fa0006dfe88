"""Macro-averaged classification metrics from class probabilities.

`label` [n] holds class numbers 0..C−1 and `probabilities` [n, C] one row per case. `macro_auc`, `sensitivity` and `f1`
raise `Undefined` with the reason where a class has no case (the published code counts such a class as 0, which makes a
fold's figure depend on who happens to be in it). `specificity` asks of each class how the cases of the others are told
from it, and has a value as long as each class has such others: one without a case counts like the rest, and only if
every case is of one class there is none. `accuracy` averages over cases and always has a value.
"""

from __future__ import annotations

import numpy as np

from histofuse.evaluation.undefined import Undefined


def macro_auc(label, probabilities) -> float:
    """Mean over the classes of the one-vs-rest area under the ROC curve; tied scores count one half."""
    label, probabilities = check_classes(label, probabilities)
    n_classes = probabilities.shape[1]
    _need_every_class(label, n_classes)
    return float(np.mean([_auc(label == k, probabilities[:, k]) for k in range(n_classes)]))


def accuracy(label, probabilities) -> float:
    """Share of cases whose most probable class (the first, on a tie) is their label."""
    label, probabilities = check_classes(label, probabilities)
    return float(np.mean(label == probabilities.argmax(axis=1)))


def sensitivity(label, probabilities) -> float:
    """Mean over the classes of TP / (TP + FN), also called balanced accuracy."""
    confusion = confusion_matrix(label, probabilities)
    _need_every_class(label, len(confusion))
    return float(np.mean(np.diag(confusion) / confusion.sum(axis=1)))


def specificity(label, probabilities) -> float:
    """Mean over the classes of TN / (TN + FP)."""
    confusion = confusion_matrix(label, probabilities)
    negatives = confusion.sum() - confusion.sum(axis=1)
    if (negatives == 0).any():
        raise Undefined(f"every case is of class {int(np.argmin(negatives))}")
    false_positives = confusion.sum(axis=0) - np.diag(confusion)
    return float(np.mean(1 - false_positives / negatives))


def f1(label, probabilities) -> float:
    """Mean over the classes of 2·TP / (2·TP + FP + FN)."""
    confusion = confusion_matrix(label, probabilities)
    _need_every_class(label, len(confusion))
    return float(np.mean(2 * np.diag(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1))))


def confusion_matrix(label, probabilities) -> np.ndarray:
    """Counts [C, C]: true class in rows, most probable class in columns."""
    label, probabilities = check_classes(label, probabilities)
    counts = np.zeros((probabilities.shape[1],) * 2, dtype=np.int64)
    np.add.at(counts, (label, probabilities.argmax(axis=1)), 1)
    return counts


def check_classes(label, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """`label` as int64 [n] and `probabilities` as float64 [n, C]; ValueError on anything else."""
    label, probabilities = np.asarray(label), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or label.shape != probabilities.shape[:1]:
        raise ValueError(f"{label.shape} labels and {probabilities.shape} probabilities; needed: [n] and [n, C]")
    if label.size == 0:
        raise Undefined("no case")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold values that are not finite")
    if not np.isin(label, range(probabilities.shape[1])).all():
        raise ValueError(f"labels must be whole numbers from 0 to {probabilities.shape[1] - 1}")
    return label.astype(np.int64), probabilities


def _need_every_class(label, n_classes: int) -> None:
    absent = sorted(set(range(n_classes)) - set(np.asarray(label).tolist()))
    if absent:
        raise Undefined(f"class {', '.join(map(str, absent))} has no case")
    if n_classes < 2:
        raise Undefined("there is only one class")


def _auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Mann–Whitney statistic by mid-ranks; O(n log n)."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    n_positive = positive.sum()
    excess = rank[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(excess / (n_positive * (positive.size - n_positive)))

"""Macro metrics against scikit-learn and hand-worked cases."""

import numpy as np
import pytest
from sklearn import metrics as sk

from histofuse.evaluation.classification import (
    accuracy,
    confusion_matrix,
    f1,
    macro_auc,
    sensitivity,
    specificity,
)
from histofuse.evaluation.undefined import Undefined


def cases(seed, n=60, classes=4, digits=None):
    rng = np.random.default_rng(seed)
    label = np.concatenate((np.arange(classes), rng.integers(classes, size=n - classes)))
    score = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[label]
    probabilities = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    return label, probabilities if digits is None else probabilities.round(digits)


@pytest.mark.parametrize("seed", range(3))
def test_equal_scikit_learn(seed):
    label, probabilities = cases(seed)
    predicted = probabilities.argmax(axis=1)
    assert macro_auc(label, probabilities) == pytest.approx(
        sk.roc_auc_score(label, probabilities, multi_class="ovr", average="macro")
    )
    assert accuracy(label, probabilities) == pytest.approx(sk.accuracy_score(label, predicted))
    assert sensitivity(label, probabilities) == pytest.approx(sk.recall_score(label, predicted, average="macro"))
    assert f1(label, probabilities) == pytest.approx(sk.f1_score(label, predicted, average="macro"))
    recalls = [sk.recall_score(label != k, predicted != k) for k in range(4)]
    assert specificity(label, probabilities) == pytest.approx(np.mean(recalls))


def test_auc_with_tied_scores_equals_scikit_learn():
    label, probabilities = cases(0, digits=1)
    theirs = [sk.roc_auc_score(label == k, probabilities[:, k]) for k in range(4)]
    assert macro_auc(label, probabilities) == pytest.approx(np.mean(theirs))


def test_by_hand():
    label = [0, 0, 1, 1]
    probabilities = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]
    assert confusion_matrix(label, probabilities).tolist() == [[1, 1], [0, 2]]
    assert accuracy(label, probabilities) == 3 / 4
    assert sensitivity(label, probabilities) == (1 / 2 + 2 / 2) / 2
    assert specificity(label, probabilities) == (2 / 2 + 1 / 2) / 2
    assert f1(label, probabilities) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert macro_auc(label, probabilities) == 1


@pytest.mark.parametrize("metric", [macro_auc, sensitivity, f1])
def test_an_absent_class_is_named(metric):
    with pytest.raises(Undefined, match="class 1, 2 has no case"):
        metric([0, 0], [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])


def test_specificity_needs_only_two_classes_present():
    assert specificity([0, 1], [[1, 0, 0], [0, 1, 0]]) == 1
    with pytest.raises(Undefined, match="every case is of class 1"):
        specificity([1, 1], [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("label", "probabilities", "reason"),
    [
        ([0, 1], [[0.5, 0.5]], "labels and"),
        ([0, 2], [[0.5, 0.5]] * 2, "whole numbers from 0 to 1"),
        ([0, 0.5], [[0.5, 0.5]] * 2, "whole numbers"),
        ([0, 1], [[0.5, np.nan]] * 2, "not finite"),
        (np.zeros(0, int), np.zeros((0, 2)), "no case"),
    ],
)
def test_bad_input_is_refused(label, probabilities, reason):
    with pytest.raises(ValueError, match=reason):
        accuracy(label, probabilities)

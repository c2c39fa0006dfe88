"""The linear rows against lifelines and scikit-learn, and their choice of penalty."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from sklearn.linear_model import LogisticRegression
from sksurv.exceptions import NoComparablePairException
from sksurv.metrics import concordance_index_censored

from histofuse.io import InputError
from histofuse.models.linear import LinearModel, _has_comparable_pair
from histofuse.training.dataset import Target


@pytest.fixture
def cohort():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 30)).astype(np.float32)
    hazard = np.exp(x[:, 0] - 0.5 * x[:, 5])
    time = rng.exponential(1 / hazard) * 100 // 5 + 1  # ties
    event = (rng.random(200) < 0.7).astype(np.int64)
    label = (x[:, 0] + 0.5 * rng.normal(size=200) > 0).astype(np.int64) + (x[:, 5] > 1)
    return {"clinical": x[:, :3], "genes": x[:, 3:]}, time, event, label


def survival(time, event):
    return Target("survival", time, event, np.zeros(0, np.int64))


def classification(label, classes=3):
    n = len(label)
    return Target("classification", np.zeros(n), np.zeros(n, np.int64), label, classes)


def test_unpenalised_cox_agrees_with_lifelines(cohort):
    blocks, time, event, _ = cohort
    model = LinearModel().fit({"clinical": blocks["clinical"]}, survival(time, event))
    frame = pd.DataFrame(blocks["clinical"]).assign(time=time, event=event)
    reference = CoxPHFitter().fit(frame, "time", "event").params_.to_numpy()  # Efron
    np.testing.assert_allclose(model.coefficients, reference, atol=1e-4)
    np.testing.assert_allclose(
        model.predict({"clinical": blocks["clinical"]}), blocks["clinical"] @ reference, atol=1e-3
    )


def test_penalised_cox_shrinks_noise_and_leaves_free_columns_alone(cohort):
    blocks, time, event, _ = cohort
    model = LinearModel(penalised=["genes"]).fit(blocks, survival(time, event))
    free, penalised = model.coefficients[:3], model.coefficients[3:]
    alone = LinearModel().fit({"clinical": blocks["clinical"]}, survival(time, event)).coefficients
    assert free[0] > 0.8 * alone[0]
    assert penalised[2] < -0.1  # column 5
    assert np.abs(np.delete(penalised, 2)).max() < 0.1
    assert model.penalty > 0


def test_unpenalised_logistic_agrees_with_scikit_learn(cohort):
    blocks, _, _, label = cohort
    model = LinearModel().fit({"clinical": blocks["clinical"]}, classification(label))
    reference = LogisticRegression(C=1e4 / len(label), max_iter=5000).fit(blocks["clinical"], label)
    expected = reference.predict_log_proba(blocks["clinical"])
    np.testing.assert_allclose(model.predict({"clinical": blocks["clinical"]}), expected, atol=5e-3)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_penalised_logistic_gives_log_probabilities_of_every_class(cohort, classes):
    blocks, _, _, label = cohort
    label = np.minimum(label, 1) if classes == 2 else label
    log_probability = LinearModel(penalised=["genes"]).fit(blocks, classification(label, classes)).predict(blocks)
    assert log_probability.shape == (200, classes)
    np.testing.assert_allclose(np.exp(log_probability).sum(1), 1)
    assert (log_probability.argmax(1) == label).mean() > 0.6
    if classes == 4:  # class 3 was never seen
        assert log_probability[:, 3].max() < -10


def test_a_separating_category_stays_finite():
    time = np.arange(1.0, 41)
    separated = np.repeat([[0.0], [1.0]], 20, axis=0).astype(np.float32)  # all of one level die first
    model = LinearModel().fit({"clinical": separated}, survival(time, np.repeat([1, 0], 20)))
    assert np.isfinite(model.coefficients).all()


def test_unknown_penalised_block_is_named(cohort):
    blocks, time, event, _ = cohort
    with pytest.raises(InputError, match="no block rna among the inputs"):
        LinearModel(penalised=["rna"]).fit(blocks, survival(time, event))


def test_a_class_with_one_case_cannot_be_cross_validated(cohort):
    blocks, _, _, label = cohort
    label = np.zeros_like(label)
    label[0] = 1
    with pytest.raises(InputError, match="single case"):
        LinearModel(penalised=["genes"]).fit(blocks, classification(label))


def few_deaths(dead):
    """80 cases with times 1 to 80, of whom those with the numbers in `dead` died; 20 features."""
    event = np.zeros(80, np.int64)
    event[dead] = 1
    return {"genes": np.random.default_rng(0).normal(size=(80, 20))}, survival(np.arange(1.0, 81), event)


def test_folds_without_a_comparable_pair_are_passed_over():
    """The one death of a fold may come after all its censored cases: the others choose the penalty."""
    blocks, target = few_deaths([60, 70, 75, 77, 78, 79])
    model = LinearModel(penalised=["genes"])
    judged = [
        _has_comparable_pair(target.event[held_out] == 1, target.time[held_out])
        for _, held_out in model._inner_folds(target.event)
    ]
    assert 0 < sum(judged) < len(judged)  # what the test is about
    assert np.isfinite(model.fit(blocks, target).coefficients).all()
    assert model.penalty > 0


def test_a_penalty_that_no_fold_can_choose_is_refused():
    blocks, target = few_deaths([78, 79])
    target = survival(np.minimum(target.time, 79), target.event)
    with pytest.raises(InputError, match="has 2 deaths in 80 cases, and no fold of the inner cross-validation"):
        LinearModel(penalised=["genes"]).fit(blocks, target)


@pytest.mark.parametrize("seed", range(20))
def test_comparable_pairs_are_those_of_scikit_survival(seed):
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, 4, 3).astype(float), rng.random(3) < 0.4
    try:
        expected = np.isfinite(concordance_index_censored(event, time, np.zeros(3))[0])
    except (NoComparablePairException, ValueError):  # the second: all are censored
        expected = False
    assert _has_comparable_pair(event, time) == expected

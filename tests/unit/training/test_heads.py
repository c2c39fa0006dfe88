"""What the head takes from the training part: of cases, however many slides, regions or crops each of them has."""

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.classification import macro_auc
from histofuse.evaluation.survival import harrell_c
from histofuse.evaluation.undefined import Undefined
from histofuse.training.dataset import Split, Target
from histofuse.training.run import make_head

N, SLIDES = 30, np.arange(30) % 5 + 1  # slides of each case
DISCRETE = {"kind": "survival", "loss": {"name": "discrete", "intervals": 4}}


def of_cases(kind):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"case_id": [f"C{k:02}" for k in range(N)], "part": (["train"] * 2 + ["val"]) * (N // 3)})
    if kind == "survival":
        target = Target(kind, rng.exponential(size=N), (rng.random(N) < 0.7).astype(np.int64), np.zeros(0, np.int64))
    else:
        target = Target(kind, np.zeros(N), np.zeros(N, np.int64), rng.integers(0, 3, N), classes=3)
    return Split(rows, target, {})


def of_slides(split):
    """The same split with the rows of its cases repeated."""
    of = np.repeat(np.arange(N), SLIDES)
    return Split(split.rows.iloc[of].reset_index(drop=True), split.target.take(of), {}), of


def test_intervals_and_times_are_those_of_the_cases():
    """A case of five slides, as IvyGAP's, is one patient who died once."""
    cases = of_cases("survival")
    slides, of = of_slides(cases)
    one, other = (make_head({}, DISCRETE, split) for split in (cases, slides))
    np.testing.assert_array_equal(one.cuts, other.cuts)
    outputs = np.random.default_rng(1).normal(size=(N, 4))
    expected, found = one.predictions(outputs, cases, 0, 0), other.predictions(outputs[of], slides, 0, 0)
    np.testing.assert_array_equal(found["survival_times"][0], expected["survival_times"][0])
    np.testing.assert_allclose(np.stack(found["survival"]), np.stack(expected["survival"]))
    by_slide = np.quantile(slides.target.time[slides.target.event == 1], [0.25, 0.5, 0.75])
    assert not np.allclose(by_slide, one.cuts)  # so that the cases could tell


@pytest.mark.parametrize("kind", ["survival", "classification"])
def test_an_epoch_is_judged_by_the_mean_over_a_cases_slides(kind):
    cases = of_cases(kind)
    slides, of = of_slides(cases)
    rng = np.random.default_rng(2)
    outputs = rng.normal(size=(len(of), 1 if kind == "survival" else 3))
    rows = rng.permutation(slides.part("val"))
    found = make_head({}, {"kind": kind}, slides).criterion(slides)(outputs[rows], rows)
    val = cases.part("val")
    if kind == "survival":
        risk = np.array([outputs[of == case, 0].mean() for case in val])
        assert found == pytest.approx(harrell_c(risk, cases.target.time[val], cases.target.event[val]))
    else:
        odds = np.exp(outputs)
        shares = odds / odds.sum(axis=1, keepdims=True)
        means = np.stack([shares[of == case].mean(axis=0) for case in val])
        assert found == pytest.approx(macro_auc(cases.target.label[val], means))


def test_a_part_without_a_class_has_no_figure():
    cases = of_cases("classification")
    rows = cases.part("val")
    rows = rows[cases.target.label[rows] != 2]
    with pytest.raises(Undefined, match="class 2 has no case"):
        make_head({}, {"kind": "classification"}, cases).criterion(cases)(np.zeros((len(rows), 3)), rows)

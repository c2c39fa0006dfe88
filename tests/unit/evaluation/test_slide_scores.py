"""Metrics per slide: worked by hand, of cases' predictions where a model reads none, never more certain than cases."""

import numpy as np
import pandas as pd
import pytest
from test_score import survival_run

from histofuse.evaluation.predictions import COLUMNS
from histofuse.evaluation.resampling import draw_counts
from histofuse.evaluation.score import CLASSIFICATION_METRICS, SLIDE_METRICS, of_each_slide, score_run
from histofuse.io import InputError, read_table, write_table

# Patient A has two slides, of which the second is taken for class 0; patient B has one.
SLIDES = pd.DataFrame(
    {
        "case_id": ["A", "A", "B"],
        "slide_id": ["A1", "A2", "B1"],
        "part": "test",
        "split": 0,
        "seed": 0,
        "time_days": [100.0, 100.0, 200.0],
        "event": [1, 1, 0],
        "label": [1, 1, 0],
        "risk": np.array([2.0, 0.5, 1.0], dtype=np.float32),
        "survival_times": None,
        "survival": None,
        "probabilities": [np.float32([1 - p, p]) for p in (0.9, 0.3, 0.4)],
    }
)
CASES = SLIDES.drop_duplicates("case_id").drop(columns="slide_id")[COLUMNS]


def scored(predictions, kind, slides):
    return score_run(predictions, kind, slides).set_index("metric")


def test_two_patients_with_three_slides_by_hand():
    """Right: A1, B1. Each class's AUC: A1 above B1, A2 below it: 1/2. Sensitivities 1/2 (A) and 1 (B)."""
    cases = CASES.assign(probabilities=[np.array([0.4, 0.6]), np.array([0.6, 0.4])])
    metrics = scored(cases, "classification", SLIDES)
    assert (metrics.loc[list(CLASSIFICATION_METRICS), "value"] == 1).all()  # of cases, by the mean of A's slides
    expected = {"accuracy": 2 / 3, "macro_auc": 1 / 2, "sensitivity": 3 / 4, "specificity": 3 / 4, "f1": 2 / 3}
    for name, value in expected.items():
        assert metrics.loc[f"slide_{name}", "value"] == pytest.approx(value), name
    assert (metrics["note"] == "").all()
    assert (metrics["n_test"] == 2).all()  # cases


def test_concordance_of_three_slides_by_hand():
    """A's slides died before B's was censored: one pair each, right for A1 and wrong for A2; A1 and A2 are no pair."""
    metrics = scored(CASES.assign(risk=[1.25, 1.0]), "survival", SLIDES)
    assert metrics.loc["harrell_c", "value"] == 1
    assert metrics.loc["slide_harrell_c", "value"] == 1 / 2


@pytest.mark.parametrize("kind", ["survival", "classification"])
@pytest.mark.parametrize("slides", [None, SLIDES.head(0)])
def test_without_slides_there_are_none(kind, slides):
    metrics = scored(CASES, kind, slides).loc[list(SLIDE_METRICS[kind])]
    assert metrics["value"].isna().all()
    assert set(metrics["note"]) == {"there are no predictions per slide"}


def test_a_case_predicted_as_a_whole_counts_once_for_each_slide():
    """A's prediction is right and counts twice, B's is wrong: 2 of 3 slides, 1 of 2 cases."""
    index = pd.DataFrame({"case_id": list("BAAXA"), "slide_id": ["B1", "A1", "A2", "X1", "A1"], "region": range(5)})
    cases = CASES.assign(probabilities=[np.array([0.4, 0.6]), np.array([0.2, 0.8])])
    train = cases.head(1).assign(case_id="C", part="train")  # with no slide in the index: it is not counted
    slides = of_each_slide(pd.concat([cases, train]), SLIDES.head(0), index)
    assert sorted(slides["slide_id"]) == ["A1", "A2", "B1"]
    metrics = scored(cases, "classification", slides)
    assert metrics.loc["accuracy", "value"] == 1 / 2
    assert metrics.loc["slide_accuracy", "value"] == pytest.approx(2 / 3)
    assert of_each_slide(cases, SLIDES, index) is SLIDES  # a model's own predictions stand
    assert of_each_slide(cases, SLIDES.head(0), None).empty
    with pytest.raises(InputError, match="the case B has no slide to be counted by"):
        of_each_slide(cases, SLIDES.head(0), index[index["case_id"] == "A"])


def test_copies_of_slides_make_nothing_more_certain():
    """Each case's slide four times over: the same figure, and the replicates of the cases."""
    run = survival_run()
    copies = run.loc[run.index.repeat(4)].reset_index(drop=True)
    copies["slide_id"] = [f"S{k}" for k in range(len(copies))]
    metrics = score_run(run, "survival", copies, resampled=True).set_index("metric")
    assert metrics.loc["slide_harrell_c", "value"] == pytest.approx(metrics.loc["harrell_c", "value"])
    np.testing.assert_allclose(*metrics.loc[["slide_harrell_c", "harrell_c"], "replicates"])
    assert metrics.loc["slide_harrell_c", "n_train"] == 40


def test_a_case_is_drawn_with_all_its_slides():
    """Of two cases each is drawn 0, 1 or 2 times: no pair, or 1 right and 1 wrong for one drawing of both."""
    found = score_run(CASES.assign(risk=[1.25, 1.0]), "survival", SLIDES, resampled=True).set_index("metric")
    replicates = found.loc["slide_harrell_c", "replicates"]
    both = (draw_counts(2) == 1).all(axis=1)
    assert (replicates[both] == 1 / 2).all()
    assert np.isnan(replicates[~both]).all()
    with pytest.raises(InputError, match="a test slide of the case X, which is no test case"):
        score_run(CASES, "survival", SLIDES.assign(case_id=["A", "A", "X"]), resampled=True)


def test_without_test_slides_nothing_is_resampled():
    for kind in SLIDE_METRICS:
        metrics = score_run(CASES, kind, SLIDES.assign(part="train"), resampled=True).set_index("metric")
        assert metrics.loc[list(SLIDE_METRICS[kind]), "replicates"].isna().all()


def test_only_the_test_part_and_no_order_matters(tmp_path):
    other = SLIDES.assign(case_id=["C", "D", "E"], slide_id=["C1", "D1", "E1"], part="train", risk=-SLIDES["risk"])
    more = pd.concat([other, SLIDES]).sample(frac=1, random_state=0)
    write_table(more, tmp_path / "slides.parquet")
    for kind in SLIDE_METRICS:
        read = score_run(CASES.fillna({"risk": 0}), kind, read_table(tmp_path / "slides.parquet"))
        pd.testing.assert_frame_equal(read, score_run(CASES, kind, SLIDES))


def test_no_test_slide_and_an_absent_class_are_noted():
    metrics = scored(CASES, "survival", SLIDES.assign(part="train"))
    assert metrics.loc["slide_harrell_c", "note"] == "no case"
    metrics = scored(CASES, "classification", SLIDES.head(2))
    assert metrics.loc["slide_macro_auc", "note"] == "class 0 has no case"
    assert metrics.loc["slide_accuracy", "value"] == 1 / 2


def test_a_slide_that_occurs_twice_is_refused():
    with pytest.raises(InputError, match="case A of split 0 has a slide_id that occurs more than once"):
        score_run(CASES, "survival", SLIDES.assign(slide_id="A1"))
    with pytest.raises(InputError, match="lack the column slide_id"):
        score_run(CASES, "survival", SLIDES.drop(columns="slide_id"))

"""ROC curves: against scikit-learn, over splits and seeds, and where a class is missing."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from histofuse.evaluation.resampling import draw_counts
from histofuse.evaluation.score import score_run
from histofuse.io import InputError
from histofuse.paper.roc import GRID, class_curves, roc_curve, roc_figure

CLASSES = ["astrocytoma", "oligodendroglioma", "glioblastoma"]


def predictions(splits=3, seeds=1, cases=90, seed=0):
    rng = np.random.default_rng(seed)
    frames = []
    for split in range(splits):
        label, part = rng.integers(0, 3, cases), np.where(rng.permutation(cases) < 60, "train", "test")
        for run in range(seeds):
            scores = np.exp(rng.normal(size=(cases, 3)) + 1.5 * np.eye(3)[label])
            probabilities = np.round(scores / scores.sum(1, keepdims=True), 1)  # ties
            probabilities[:, 0] = 1 - probabilities[:, 1:].sum(1)
            frame = pd.DataFrame({"case_id": [f"c{i}" for i in range(cases)], "part": part, "split": split})
            frame["probabilities"] = list(np.clip(probabilities, 0, 1))
            frame["label"] = pd.array(label, dtype="Int64")
            frame = frame.assign(seed=run, time_days=1.0, event=0, risk=np.nan, survival_times=None, survival=None)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def without_class(frame, split, k):
    """Predictions of which the test part of a split has lost a class."""
    return frame[~((frame["split"] == split) & (frame["part"] == "test") & (frame["label"] == k))]


def test_corners_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive, score = rng.random(80) < 0.3, rng.integers(0, 12, 80) / 12
    x, y = roc_curve(positive, score)
    known_x, known_y, _ = sklearn_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(x, known_x)
    np.testing.assert_allclose(y, known_y)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(positive, score))


def test_areas_average_to_the_tables_macro_auc():
    frame = predictions(seeds=2)
    areas = pd.concat(class_curves(frame, k)[1] for k in range(3))
    scores = score_run(frame, "classification")
    known = scores[scores["metric"] == "macro_auc"].set_index(["split", "seed"])["value"]
    pd.testing.assert_series_equal(areas.groupby(["split", "seed"])["value"].mean(), known)


def test_a_split_has_one_curve_the_mean_over_seeds():
    frame = predictions(splits=2, seeds=2)
    curves, _ = class_curves(frame, 1)
    assert curves.shape == (2, GRID.size)
    alone = [class_curves(frame[frame["seed"] == seed], 1)[0] for seed in (0, 1)]
    np.testing.assert_allclose(curves, np.mean(alone, axis=0))
    assert (np.diff(curves) >= 0).all()
    assert (curves[:, -1] == 1).all()


def test_a_split_without_the_class_is_left_out_and_counted():
    frame = without_class(predictions(), 0, 2)
    curves, areas = class_curves(frame, 2)
    assert len(curves) == 2
    assert areas["value"].isna().tolist() == [True, False, False]
    legends = [axes.get_legend().get_texts()[0].get_text() for axes in roc_figure({"SNN": frame}, CLASSES, "").axes]
    assert [text.endswith(", 2 of 3 splits") for text in legends] == [False, False, True]


def test_a_class_without_any_case_is_not_defined():
    frame = without_class(predictions(splits=1), 0, 0)
    axes = roc_figure({"SNN": frame}, CLASSES, "Grading").axes[0]
    assert axes.get_legend().get_texts()[0].get_text() == "not defined"


def test_a_panel_per_class_and_a_line_per_model():
    models = {"SNN": predictions(), "Concat": predictions(seed=1)}
    figure = roc_figure(models, CLASSES, "Diagnosis")
    assert [axes.get_title() for axes in figure.axes] == CLASSES
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(models)
    for k, axes in enumerate(figure.axes):
        _, *lines = axes.get_lines()  # the first is chance
        for frame, line, text in zip(models.values(), lines, axes.get_legend().get_texts(), strict=True):
            curves, areas = class_curves(frame, k)
            np.testing.assert_allclose(line.get_ydata(), [0, *curves.mean(axis=0)])
            assert text.get_text().startswith(f"{areas['value'].mean():.2f} (")


def test_one_split_has_no_band_and_the_bootstrap_interval_of_the_mean_over_seeds():
    frame = predictions(splits=1, seeds=2)
    axes = roc_figure({"SNN": frame}, CLASSES, "").axes[0]
    assert not axes.collections
    tests = [run[run["part"] == "test"].sort_values("case_id") for _, run in frame.groupby("seed")]
    expected = []
    for row in draw_counts(len(tests[0])).astype(int):
        drawn = [test.iloc[np.repeat(np.arange(len(test)), row)] for test in tests]
        expected.append(np.mean([roc_auc_score(d["label"] == 0, np.stack(d["probabilities"])[:, 0]) for d in drawn]))
    low, high = np.quantile(expected, [0.025, 0.975])
    assert axes.get_legend().get_texts()[0].get_text().endswith(f" ({low:.2f}–{high:.2f})")


def test_another_number_of_classes_is_refused():
    with pytest.raises(InputError, match="SNN: predictions of 3 classes"):
        roc_figure({"SNN": predictions()}, CLASSES[:2], "")

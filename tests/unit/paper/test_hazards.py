"""The histogram of predicted risks: on which scale, and of whom."""

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.paper.hazards import hazards_figure, standardise
from histofuse.paper.kaplan_meier import risk_groups


def predictions(train, test, split=0):
    """`train` and `test` are risks; the cases of the test part are t0, t1, …, every second one died."""
    parts = ["train"] * len(train) + ["test"] * len(test)
    ids = [f"c{i}" for i in range(len(train))] + [f"t{i}" for i in range(len(test))]
    frame = pd.DataFrame({"case_id": ids, "part": parts, "risk": [*train, *test]}).assign(split=split, seed=0)
    frame["event"] = [0] * len(train) + [i % 2 for i in range(len(test))]
    frame = frame.assign(time_days=100.0, label=None, survival_times=None, survival=None)
    return frame.assign(probabilities=None)


def test_scale_is_that_of_the_training_risks_of_the_split():
    # The median is 1, not the mean; in the other split everything is ten times as large and 50 higher.
    first, test = np.array([-1.0, 1.0, 1.0, 3.0, -1.0, 9.0]), np.array([1.0, 5.0, -3.0])
    second = predictions(10 * first + 50, 10 * test + 50, split=1)
    values = standardise(pd.concat([predictions(first, test), second]))
    expected = (test - 1.0) / first.std()
    for split in (0, 1):
        of_split = values[values["split"] == split]
        assert of_split["case_id"].tolist() == ["t0", "t1", "t2"]
        np.testing.assert_allclose(of_split["value"], expected)


def test_zero_parts_the_risk_groups():
    rng = np.random.default_rng(0)
    frame = predictions(rng.normal(3, 2, 40), rng.normal(3, 2, 30))
    values = standardise(frame).set_index("case_id")["value"]
    groups = risk_groups(frame).set_index("case_id").loc[values.index, "group"]
    assert ((values > 0) == (groups == "high")).all()


def test_equal_training_risks_are_no_error():
    assert standardise(predictions([2.0] * 4, [2.0, 3.0]))["value"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("part", ["train", "test"])
def test_both_parts_are_needed(part):
    frame = predictions([0.0, 1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="needs test cases, and training cases in every split"):
        standardise(frame[frame["part"] == part])


@pytest.mark.parametrize(
    ("spread", "last"), [(1, 0), (0, 0), (1, 1e4)], ids=["usual", "one risk for all", "one far from the others"]
)
def test_shares_add_up_to_all_predictions_of_an_outcome(spread, last):
    rng = np.random.default_rng(0)
    test = np.append(spread * rng.normal(size=20), last)
    runs = [predictions(rng.normal(size=40), test, split) for split in range(3)]
    axes = hazards_figure(standardise(pd.concat(runs)), "Path-GPTOmic").axes[0]
    died, censored = [patch.get_data() for patch in axes.patches if not patch.get_fill()]
    for stairs in (died, censored):
        assert stairs.values.sum() == pytest.approx(100)
        assert len(stairs.values) <= 32
        assert (stairs.edges == 0).any()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["Died: 30 predictions for 10 cases", "Censored: 33 predictions for 11 cases"]

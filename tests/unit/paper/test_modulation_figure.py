"""The figure of two branches trained side by side: what it takes from the histories and from predictions."""

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored

from histofuse.evaluation.statistics import corrected_half_width
from histofuse.io import InputError
from histofuse.paper.modulation import QUANTITIES, WHOLE, branch_scores, modulation_figure, over_epochs
from histofuse.paper.style import look

QUANTITY = {quantity.prefix: quantity for quantity in QUANTITIES}
STEPS = {"genomic": [[0.5, 0.7], [0.2, 0.6, 1.0]], "image": [[1.0, 1.0], [1.0, 0.9, 1.0]]}


def history(c_genomic=0.8):
    """Two epochs of a balanced run; the second had one step more."""
    rows = []
    for epoch in range(2):
        row = {"epoch": epoch, "loss": 1.0, "c_genomic": c_genomic, "c_image": 0.6, "gradient_image": 0.1}
        for branch, steps in STEPS.items():
            k = np.array(steps[epoch])
            row |= {f"k_{branch}": k.mean(), f"k_steps_{branch}": k}
            row |= {f"rho_{branch}": (1 / k).mean(), f"rho_steps_{branch}": 1 / k, f"ahead_{branch}": 0.5}
        rows.append(row)
    return pd.DataFrame(rows)


def coordinated(heads=("10x", "20x")):
    """Three epochs as gradient coordination logs them; there is no confidence yet in the first."""
    branches = [f"{branch}_{head}" for head in heads for branch in ("tumour", "microenvironment")]
    columns = {f"conflict_{head}": [0.5, 0.4, 0.3] for head in heads}
    columns |= {f"cosine_{head}": [-0.1, 0.0, 0.1] for head in heads}
    columns |= {f"projected_{name}": [0.1, 0.2, 0.3] for name in branches}
    columns |= {f"confidence_{name}": [np.nan, 0.6, 0.7] for name in branches}
    return pd.DataFrame({"epoch": range(3), **columns})


def predictions(splits=3, cases=60):
    rng = np.random.default_rng(0)
    frames = []
    for split in range(splits):
        risk = rng.normal(size=cases)
        frame = pd.DataFrame({"case_id": [f"c{i}" for i in range(cases)], "split": split, "seed": 0, "label": None})
        frame["part"] = np.where(rng.permutation(cases) < 40, "train", "test")
        frame["risk"], frame["risk_genomic"] = risk, risk + rng.normal(size=cases)
        frame["risk_image"] = frame["risk"] - frame["risk_genomic"]
        frame["time_days"], frame["event"] = rng.exponential(np.exp(-risk)) * 900 + 1, rng.integers(0, 2, cases)
        frames.append(frame.assign(survival_times=None, survival=None, probabilities=None))
    return pd.concat(frames, ignore_index=True)


def panels(figure):
    return {axes.get_title().replace("\n", " "): axes for axes in figure.axes}


def drawn(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_steps_of_all_runs_make_the_line_and_the_band():
    of_k = over_epochs(pd.concat([history(), history()]), QUANTITY["k"]).set_index(["series", "epoch"])
    assert list(of_k.index) == [(branch, epoch) for branch in ("genomic", "image") for epoch in (1, 2)]
    assert of_k.loc[("genomic", 2), "middle"] == pytest.approx(0.6)
    low, high = np.quantile([0.2, 0.6, 1.0] * 2, [0.1, 0.9])
    assert of_k.loc[("genomic", 2), ["low", "high"]].tolist() == pytest.approx([low, high])
    # A ratio and its inverse are as far from 1: the median keeps that, the mean does not.
    of_rho = over_epochs(history(), QUANTITY["rho"]).set_index(["series", "epoch"])
    assert of_rho.loc[("genomic", 2), "middle"] == pytest.approx(1 / 0.6)


def test_without_steps_the_runs_make_the_band():
    of_c = over_epochs(pd.concat([history(0.7), history(0.9)]), QUANTITY["c"]).set_index(["series", "epoch"])
    assert of_c.loc[("genomic", 1), ["middle", "low", "high"]].tolist() == pytest.approx([0.8, 0.72, 0.88])
    assert of_c.loc[("image", 1), ["low", "high"]].tolist() == [0.6, 0.6]


def test_balanced_branches_have_a_panel_per_quantity():
    figure = modulation_figure(history(), None, "Path-GPTOmic")
    shown = panels(figure)
    assert list(shown) == [
        "Coefficient of a branch's step",
        "Score of a branch, relative to the other's",
        "Each branch alone, training part",
    ]
    lines = drawn(shown["Coefficient of a branch's step"])
    assert lines["Genomic"].get_xdata().tolist() == [1, 2]
    np.testing.assert_allclose(lines["Genomic"].get_ydata(), [0.6, 0.6])
    assert shown["Score of a branch, relative to the other's"].get_yscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Genomic", "Image"]


def test_literal_ratios_may_be_negative():
    frame = history().assign(rho_steps_genomic=[np.array([-2.0, 1.0]), np.array([0.5, -0.5, 3.0])])
    axes = panels(modulation_figure(frame, None, ""))["Score of a branch, relative to the other's"]
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < -1.5


def test_coordinated_branches_are_drawn_by_head():
    figure = modulation_figure(coordinated(), None, "Teacher")
    shown = panels(figure)
    assert list(drawn(shown["Conflicts of the branches' gradients"])) == ["10x", "20x"]
    confidence = drawn(shown["Confidence in a branch"])
    assert list(confidence) == ["Tumour 10x", "Microenvironment 10x", "Tumour 20x", "Microenvironment 20x"]
    assert len(figure.legends[0].get_texts()) == 6
    assert confidence["Tumour 10x"].get_xdata().tolist() == [2, 3]
    never = coordinated().assign(**{name: np.nan for name in coordinated() if name.startswith("confidence")})
    assert "Confidence in a branch" not in panels(modulation_figure(never, None, ""))
    one = modulation_figure(coordinated().rename(columns=lambda name: name.replace("_10x", "")), None, "KS-Fusion")
    assert "Both branches" in drawn(panels(one)["Angle of the branches' gradients"])


def test_what_a_branch_alone_is_worth_on_the_test_parts():
    frame = predictions(splits=8)
    scores = branch_scores(frame).set_index("row")
    assert list(scores.index) == ["genomic", "image", WHOLE]
    test = [run[run["part"] == "test"] for _, run in frame.groupby("split")]
    for row, column in (("genomic", "risk_genomic"), ("image", "risk_image"), (WHOLE, "risk")):
        known = [concordance_index_censored(t["event"] == 1, t["time_days"], t[column])[0] for t in test]
        assert scores.loc[row, "estimate"] == pytest.approx(np.mean(known), abs=1e-9)
        assert scores.loc[row, "ci_high"] == pytest.approx(np.mean(known) + corrected_half_width(known, 0.5))
    assert branch_scores(frame.drop(columns=["risk_genomic", "risk_image"])) is None


def test_scores_share_the_axis_of_the_curves():
    scores = branch_scores(predictions(splits=2))  # intervals of two splits are enormous
    shown = panels(modulation_figure(history(), scores, "Path-GPTOmic"))
    curves, points = shown["Each branch alone, training part"], shown["After training, test part"]
    assert curves.get_ylim() == points.get_ylim()
    assert points.get_ylim()[0] >= min(0.38, scores["estimate"].min() - 0.02)
    lines = drawn(points)
    assert list(lines) == ["Genomic", "Image", "Whole model"]
    assert [line.get_ydata()[0] for line in lines.values()] == scores["estimate"].tolist()
    assert lines["Image"].get_color() == drawn(curves)["Image"].get_color() != lines["Genomic"].get_color()
    alone = panels(modulation_figure(coordinated(("10x",)), scores, "KS-Fusion"))["After training, test part"]
    assert alone.get_ylabel() == "Harrell C"


def test_a_history_without_branches_is_refused():
    with pytest.raises(InputError, match="trained without a modulation"):
        modulation_figure(pd.DataFrame({"epoch": [0], "loss": [1.0]}), None, "")


def test_fourteen_lines_differ():
    assert len({str(look(place)) for place in range(14)}) == 14

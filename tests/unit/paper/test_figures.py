"""Figures: who is in which risk group, what is drawn, and the same bytes twice."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from paper_examples import ENTRY, MISSING, PUBLISHED, external_metrics, metrics

from histofuse.io import InputError
from histofuse.paper.intervals import table_figure
from histofuse.paper.kaplan_meier import kaplan_meier_figure, risk_groups
from histofuse.paper.style import save_figure, set_heading
from histofuse.paper.tables import build_table, summarise_rows


def predictions(split, train, test, seed=0):
    """`train` and `test` map case ids to risks."""
    rows = [(case, part, risk) for part, risks in (("train", train), ("test", test)) for case, risk in risks.items()]
    frame = pd.DataFrame(rows, columns=["case_id", "part", "risk"]).assign(split=split, seed=seed, label=None)
    frame["time_days"] = frame["case_id"].str[1:].astype(float) * 100
    frame["event"] = 1
    return frame.assign(survival_times=None, survival=None, probabilities=None)


def test_the_threshold_is_the_training_median():
    groups = risk_groups(predictions(0, {"c1": 0, "c2": 1, "c3": 2}, {"c4": 1.5, "c5": 0.5, "c6": 9, "c7": 8, "c8": 7}))
    # The median of the test risks is 7: with it, c4 would be low.
    assert groups.set_index("case_id")["group"].to_dict() == {
        "c4": "high",
        "c5": "low",
        "c6": "high",
        "c7": "high",
        "c8": "high",
    }


def test_a_case_tested_often_counts_once_by_majority():
    train = {"c1": 0.0, "c2": 2.0}
    runs = [predictions(s, train, {"c3": risk, "c4": 0.0}) for s, risk in enumerate([9.0, 9.0, 0.0])]
    groups = risk_groups(pd.concat(runs)).set_index("case_id")
    assert groups["group"].to_dict() == {"c3": "high", "c4": "low"}
    assert groups.loc["c3", "time_days"] == 300


@pytest.mark.parametrize("part", ["train", "test"])
def test_groups_need_both_parts(part):
    frame = predictions(0, {"c1": 0, "c2": 1}, {"c3": 1})
    with pytest.raises(InputError, match="risk groups need"):
        risk_groups(frame[frame["part"] == part])


def groups(n=60, event=None):
    rng = np.random.default_rng(0)
    high = np.arange(n) % 2 == 0
    return pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "time_days": rng.exponential(np.where(high, 500, 2000)) + 1,
            "event": rng.integers(0, 2, n) if event is None else event,
            "group": np.where(high, "high", "low"),
        }
    )


def texts(figure):
    artists = [text for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in artists]


def test_numbers_at_risk():
    frame = groups()
    figure = kaplan_meier_figure(frame, "SNN")
    at_risk = texts(figure)
    years = frame["time_days"] / 365.25
    ticks = figure.axes[1].get_xticks()
    expected = [str((years[frame["group"] == group] >= tick).sum()) for group in ("low", "high") for tick in ticks]
    assert at_risk == expected
    assert at_risk[0] == "30"
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["Low predicted risk (n = 30)", "High predicted risk (n = 30)"]


@pytest.mark.parametrize("frame", [groups().query("group == 'low'"), groups(event=0)], ids=["one group", "no event"])
def test_degenerate_groups_are_drawn_without_a_test(frame):
    legend = kaplan_meier_figure(frame, "SNN").axes[0].get_legend()
    assert legend.get_title().get_text() == "log-rank: not defined"


def table(simulated=False):
    return build_table(ENTRY, summarise_rows(ENTRY, metrics()), PUBLISHED, MISSING, "main", simulated)


def test_every_row_is_drawn_in_order():
    figure = table_figure(table(), "harrell_c", "Survival")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Clinical", "SNN", "Ours"]
    assert texts(figure) == ["not run"]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"Corrected 95 % interval", "t-interval, as printed", "Estimate", "Published"}


def test_a_row_scored_on_another_cohort_has_an_interval_of_its_own_kind():
    rows = [{"label": "Own", "model": "cox"}, {"label": "Elsewhere", "model": "cox", "scored_on": "cptac"}]
    entry = {**ENTRY, "rows": rows, "reference_row": "Own"}
    frame = pd.concat([metrics(), external_metrics()], ignore_index=True).fillna({"scored_on": ""})
    labels = {"cohort": {"cptac": "CPTAC-GBM"}}
    built = build_table(entry, summarise_rows(entry, frame), labels=labels)
    axes = table_figure(built, "harrell_c", "Survival").axes[0]
    drawn = [line for line in axes.lines if line.get_label() == "95 % bootstrap over cases of CPTAC-GBM"]
    assert [tuple(line.get_ydata()) for line in drawn] == [(-1, -1)]
    assert drawn[0].is_dashed()
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "Corrected 95 % interval"] == [0]


def test_nothing_published_beside_a_simulated_cohort():
    figure = table_figure(table(), "harrell_c", "Survival", simulated=True)
    assert "Published" not in {text.get_text() for text in figure.legends[0].get_texts()}
    assert "simulated" in figure.get_suptitle()


def test_a_table_of_rows_that_were_not_run():
    frame = build_table(
        ENTRY, summarise_rows(ENTRY, metrics().head(0)), None, dict.fromkeys(["Clinical", "SNN", "Ours"], "x")
    )
    assert texts(table_figure(frame, "harrell_c", "Survival")) == ["not run"] * 3


def test_an_absent_metric_is_named():
    with pytest.raises(InputError, match="no f1; it has harrell_c, uno_c"):
        table_figure(table(), "f1", "Survival")


def test_same_bytes_twice(tmp_path):
    for run in "ab":
        save_figure(kaplan_meier_figure(groups(), "SNN"), tmp_path / f"{run}.svg", tmp_path / f"{run}.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()[:2000]


def test_a_long_heading_stays_within_the_figure():
    figure = kaplan_meier_figure(
        groups(), "Pathomic Fusion (T2T-ViT + SNN): survival from one region per slide (simulated)"
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    heading = figure._suptitle.get_window_extent(canvas.get_renderer())
    assert figure.get_suptitle().count("\n") == 1
    assert 0 <= heading.x0 < heading.x1 <= figure.bbox.width
    assert heading.y0 >= figure.axes[0].get_window_extent(canvas.get_renderer()).y1
    set_heading(figure, "Short")
    assert figure.get_suptitle() == "Short"

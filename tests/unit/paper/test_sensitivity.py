"""The figure of a table's metrics over a parameter: values in order, intervals, rows that were not run."""

import numpy as np
import pytest
from paper_examples import ENTRY, MISSING, PUBLISHED, metrics

from histofuse.io import InputError
from histofuse.paper.intervals import table_figure
from histofuse.paper.sensitivity import sensitivity_figure
from histofuse.paper.tables import build_table, summarise_rows

VALUES = {"SNN": 0.5, "Ours": 0.1, "Clinical": 0}


def table(splits=5):
    return build_table(ENTRY, summarise_rows(ENTRY, metrics(splits=splits)), PUBLISHED, MISSING, "main")


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_values_are_drawn_in_their_order_with_a_gap_where_a_row_was_not_run():
    figure = sensitivity_figure(table(), VALUES, "α of Ge-Con", "Ablation")
    assert [axes.get_ylabel() for axes in figure.axes] == ["Harrell C", "Uno C"]
    for axes, metric in zip(figure.axes, ("harrell_c", "uno_c"), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.1", "0.5"]
        assert axes.get_xlabel() == "α of Ge-Con"
        lines = table()[table()["metric"] == metric].set_index("row")["estimate"]
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), lines[["Clinical", "Ours", "SNN"]])
        assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [("not run", 1)]


def test_intervals_are_those_of_the_table():
    lines = table().query("metric == 'harrell_c'").set_index("row")
    corrected, printed = sensitivity_figure(table(), VALUES, "α", "").axes[0].collections
    for drawn, ends in (
        (corrected, lines[["ci_low", "ci_high"]]),
        (printed, [lines["estimate"] + sign * lines["half_width_t"] for sign in (-1, 1)]),
    ):
        ends = ends if hasattr(ends, "loc") else np.stack(ends, axis=1)
        known = np.asarray(ends)[[0, 1]]  # Clinical and SNN, the rows that ran
        np.testing.assert_allclose([segment[:, 1] for segment in drawn.get_segments()], known)
        assert [segment[0, 0] for segment in drawn.get_segments()] == [0, 2]


def test_published_figures_stand_beside_real_cohorts_only():
    assert "Published" in legend(sensitivity_figure(table(), VALUES, "α", ""))
    figure = sensitivity_figure(table(), VALUES, "α", "Ablation", simulated=True)
    assert "Published" not in legend(figure)
    assert figure.get_suptitle() == "Ablation (simulated cohort)"


def test_one_split_has_the_bootstrap_interval():
    shown = legend(sensitivity_figure(table(splits=1), VALUES, "α", ""))
    assert "95 % bootstrap over cases" in shown
    assert "t-interval, as printed" not in shown


def test_intervals_of_few_splits_end_where_the_metric_does():
    lines = table(splits=2)
    lines["half_width_t"] = 5 * lines["estimate"]
    for axes in sensitivity_figure(lines, VALUES, "α", "").axes:
        assert [segment[:, 1].tolist() for segment in axes.collections[1].get_segments()] == [[0, 1]] * 2
    assert table_figure(lines, "harrell_c", "").axes[0].get_xlim() == pytest.approx((-0.05, 1.05))


def test_a_label_that_is_no_row_is_named():
    with pytest.raises(InputError, match="'SNNN' is no row of the table; rows: Clinical, SNN, Ours"):
        sensitivity_figure(table(), {"SNNN": 1, "Clinical": 0}, "α", "")

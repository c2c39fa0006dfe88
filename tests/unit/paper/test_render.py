"""Typeset tables: what a cell says, the notes below, and escaping."""

import re

import numpy as np
import pandas as pd
import pytest
from paper_examples import ENTRY, MISSING, PUBLISHED, external_metrics, metrics

from histofuse.io import read_table, write_table
from histofuse.paper.render import SIMULATED, lay_out, to_html, to_latex, to_markdown
from histofuse.paper.tables import build_table, summarise_rows


def table(simulated=False, frame=None):
    summary = summarise_rows(ENTRY, metrics() if frame is None else frame)
    return build_table(ENTRY, summary, PUBLISHED, MISSING, "main", simulated)


def test_one_line_per_row_and_one_column_per_metric():
    layout = lay_out(table(), notes=["oncotree code is a proxy for grade"])
    assert layout.header == ["Row", "Harrell C", "Harrell C, published", "Uno C", "p (Harrell C)", "Splits × seeds"]
    assert [row[0] for row in layout.rows] == ["Clinical", "SNN", "Ours [1]"]
    assert all(len(row) == len(layout.header) for row in layout.rows)
    snn, ours = layout.rows[1:]
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3} \(0\.\d{3}–0\.\d{3}\)\*?", snn[1])
    assert snn[2] == "0.808 ± 0.014"
    assert snn[-1] == "5 × 2"
    assert ours[1:] == ["not run", "0.848", "not run", "–", "–"]
    assert layout.notes[-1] == f"[1] Not run: {MISSING['Ours']}."
    assert "oncotree code is a proxy for grade" in layout.notes
    assert any("Nadeau" in note for note in layout.notes)
    assert any("'Clinical'" in note for note in layout.notes)


def test_rows_scored_on_another_cohort_say_so():
    rows = [{"label": "Clinical", "model": "cox"}, {"label": "Elsewhere", "model": "cox", "scored_on": "cptac"}]
    rows.append({"label": "SNN elsewhere", "model": "snn", "scored_on": "cptac"})
    entry = {**ENTRY, "rows": rows, "reference_row": "Elsewhere"}
    frame = pd.concat([metrics().assign(scored_on=""), external_metrics()], ignore_index=True)
    layout = lay_out(build_table(entry, summarise_rows(entry, frame)))
    assert layout.header[:2] == ["Row", "Scored on"]
    assert [row[1] for row in layout.rows] == ["own test parts", "cptac", "cptac"]
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3} \(0\.\d{3}–0\.\d{3}\)", layout.rows[0][2])
    assert re.fullmatch(r"0\.\d{3} \(0\.\d{3}–0\.\d{3}\)\*?", layout.rows[1][2])
    assert layout.rows[0][4] == "–"
    assert layout.rows[2][4] != "–"
    assert any(
        "Scored on cptac (31 cases)" in note and "bootstrap interval over the cases" in note for note in layout.notes
    )
    assert any("two-sided bootstrap over the cases, paired with 'Elsewhere'" in note for note in layout.notes)
    assert not any("t-test" in note for note in layout.notes)


def test_a_significant_difference_has_a_star():
    frame = metrics()
    frame.loc[frame["model"] == "snn", "value"] += 0.2
    row = lay_out(table(frame=frame)).rows[1]
    assert row[1].endswith("*")
    assert not lay_out(table()).rows[1][1].endswith("*")
    assert float(row[4].removeprefix("< ")) < 0.05


def test_the_star_looks_at_the_adjusted_p():
    frame = table()
    frame.loc[frame["row"] == "SNN", ["p_value", "p_adjusted"]] = [0.03, 0.06]
    assert not lay_out(frame).rows[1][1].endswith("*")
    assert lay_out(frame).rows[1][4] == "0.060"


def test_simulated_cohorts_are_named_so_and_have_no_published_column():
    layout = lay_out(table(simulated=True), simulated=True)
    assert layout.first == SIMULATED
    assert not any("published" in name for name in layout.header)
    assert "0.848" not in to_markdown(layout, "t")
    assert "0.848" not in to_markdown(lay_out(table(), simulated=True), "t")
    for text in (to_markdown(layout, "t"), to_latex(layout, "t", "t"), to_html(layout, "t")):
        assert SIMULATED in text


def test_a_single_split_says_where_its_interval_and_its_test_come_from():
    layout = lay_out(table(frame=metrics(splits=1)))
    for column in (1, 3):  # every metric has an interval
        assert re.fullmatch(r"0\.\d{3} \(0\.\d{3}–0\.\d{3}\)\*?", layout.rows[1][column])
    assert layout.rows[1][4] != "–"
    assert any(
        note.startswith("With a single split") and "bootstrap interval over the" in note for note in layout.notes
    )
    assert any("p: two-sided bootstrap over the cases, paired with 'Clinical'" in note for note in layout.notes)
    assert not any("Nadeau" in note or "t-test" in note for note in layout.notes)


def test_a_row_scored_on_other_cases_than_the_reference_says_why_it_is_not_tested(tmp_path):
    frame = metrics()
    frame.loc[frame["model"] == "snn", "cases"] = "others"
    for built in (table(frame=frame), by_way_of_csv(table(frame=frame), tmp_path)):
        layout = lay_out(built)
        assert layout.rows[1][0] == "SNN [1]"
        assert "±" in layout.rows[1][1]
        assert layout.notes[-2] == "[1] Not tested: scored on other cases than the reference row."
        assert not any(note.startswith("p:") for note in layout.notes)


def by_way_of_csv(frame, folder):
    """As the report takes it."""
    write_table(frame, folder / "table.csv")
    return read_table(folder / "table.csv")


def test_cohorts_and_tasks_are_shown_by_their_labels(tmp_path):
    rows = [{"label": "Own", "model": "cox"}, {"label": "Elsewhere", "model": "cox", "scored_on": "cptac"}]
    rows += [{"label": "Kidney", "model": "cox", "cohort": "kirc", "task": "grading"}]
    kidney = metrics(models=["cox"]).assign(cohort="kirc", task="grading")
    frame = pd.concat([metrics(), external_metrics(), kidney], ignore_index=True).fillna({"scored_on": ""})
    entry = {**ENTRY, "rows": rows, "reference_row": "Own"}
    names = {"glioma": "Glioma & more", "kirc": "TCGA-KIRC", "cptac": "CPTAC-GBM"}
    labels = {"cohort": names, "task": {"grading": "Grade"}}
    built = build_table(entry, summarise_rows(entry, frame), labels=labels)
    for read in (built, by_way_of_csv(built, tmp_path)):
        layout = lay_out(read)
        assert layout.header[:4] == ["Row", "Cohort", "Task", "Scored on"]
        assert layout.rows[1][1:4] == ["Glioma & more", "survival", "CPTAC-GBM"]
        assert layout.rows[2][1:4] == ["TCGA-KIRC", "Grade", "own test parts"]
        assert any("Scored on CPTAC-GBM (31 cases)" in note for note in layout.notes)
        assert not any("cptac" in text for row in [*layout.rows, layout.notes] for text in row)
    labels["task"] = {"grading": "Outcome", "survival": "Outcome"}
    layout = lay_out(build_table(entry, summarise_rows(entry, frame), labels=labels))
    assert [row[2] for row in layout.rows] == ["survival", "survival", "grading"]


def test_columns_that_vary_are_shown():
    frame = table()
    frame.loc[frame["row"] == "SNN", ["cohort", "cohort_label"]] = "kirc"
    layout = lay_out(frame)
    assert layout.header[:2] == ["Row", "Cohort"]
    assert layout.rows[1][1] == "kirc"


def test_markdown_is_a_table():
    lines = to_markdown(lay_out(table()), "Survival").splitlines()
    assert lines[0] == "## Survival"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 5
    assert {line.count("|") for line in rows} == {7}


def test_latex_escapes_and_balances():
    frame = table()
    frame["row"] = frame["row"].replace("SNN", "S_N & 5% #1 {x} $y$ \\cmd ~ ^")
    text = to_latex(lay_out(frame), ENTRY["title"], "main")
    assert r"S\_N \& 5\% \#1 \{x\} \$y\$ \textbackslash{}cmd \textasciitilde{} \textasciicircum{}" in text
    assert r"Survival of 5 \& more \% of cases" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert all(len(re.findall(r"(?<!\\)&", line)) == 5 and line.endswith(r" \\") for line in body)
    assert text.count(r"\begin{") == text.count(r"\end{") == 3
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" in text  # never wider than the page


@pytest.mark.parametrize("bad", ["<script>alert(1)</script>", "a & b"])
def test_html_escapes(bad):
    frame = table()
    frame["row"] = frame["row"].replace("SNN", bad)
    text = to_html(lay_out(frame), bad)
    assert bad not in text
    assert bad.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text


def test_metrics_per_slide_say_so():
    frame = metrics().replace({"metric": {"uno_c": "slide_harrell_c"}})
    frame.loc[(frame["model"] == "cox") & (frame["metric"] == "slide_harrell_c"), "value"] = np.nan
    frame.loc[frame["value"].isna(), "note"] = "there are no predictions per slide"
    entry = ENTRY | {"metrics": ["harrell_c", "slide_harrell_c"]}
    built = build_table(entry, summarise_rows(entry, frame), PUBLISHED, MISSING, "main")
    layout = lay_out(built)
    assert "Harrell C per slide" in layout.header
    column = layout.header.index("Harrell C per slide")
    assert layout.rows[0][column] == "–"
    assert layout.rows[1][column].startswith("0.")
    assert "[1] Harrell C per slide: 5 of 5 splits left out: there are no predictions per slide." in layout.notes
    assert any(note.startswith("Per slide: each test slide counts once") for note in layout.notes)
    assert not any(note.startswith("Per slide") for note in lay_out(table()).notes)

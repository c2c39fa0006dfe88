"""A table's CSV as Markdown, LaTeX and HTML: one line per row, one column per metric."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from histofuse.evaluation.summary import OTHER_CASES, PAIRED_BOOTSTRAP, PAIRED_T
from histofuse.paper.latex import escape

METRIC_NAMES = {
    "harrell_c": "Harrell C",
    "uno_c": "Uno C",
    "time_auc": "Time-dependent AUC",
    "integrated_brier": "Integrated Brier",
    "macro_auc": "Macro AUC",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
}
METRIC_NAMES |= {f"slide_{metric}": f"{name} per slide" for metric, name in METRIC_NAMES.items()}
SIMULATED = "Simulated cohort: these figures show that the workflow runs, not what the models can do for patients."
ABSENT = "–"
SETTING = ["cohort", "task", "protocol"]
OWN = "own test parts"


@dataclass(frozen=True)
class Layout:
    """A table ready to be typeset: `first` stands above it, `notes` below."""

    header: list[str]
    rows: list[list[str]]
    first: str
    notes: list[str]


def lay_out(table: pd.DataFrame, notes: Sequence[str] = (), simulated: bool = False) -> Layout:
    """Arrange a table (columns of `paper.tables`) in the wide form: "estimate ± t (corrected interval)" per
    metric.

    A `*` marks an adjusted p below 0.05; the p-values of the first metric have a column. Rows that were not run or not
    tested, and rows with splits left out, carry the number of a footnote with the reason. Where a row was scored on
    another cohort, a column says on which each was. Cohorts and tasks stand under their labels where these differ.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    published = table["published"].notna().groupby(table["metric"]).any() & (not simulated)
    tested = table["p_adjusted"].notna().any()
    empty = {"scored_on": OWN, "scored_on_label": OWN, "test": "", "note": ""}  # NaN where the table was read from CSV
    table = table.assign(**{key: table[key].replace("", None).astype(object).fillna(empty[key]) for key in empty})
    varying = [key for key in SETTING if table[key].nunique() > 1]
    varying += ["scored_on"] if (table["scored_on"] != OWN).any() else []
    shown = {key: _shown(table, key) for key in varying}
    reasons: list[str] = []

    header = ["Row", *(key.replace("_", " ").capitalize() for key in varying)]
    for metric in metrics:
        name = METRIC_NAMES.get(metric, metric)
        header += [name, f"{name}, published"] if published[metric] else [name]
    header += [f"p ({METRIC_NAMES.get(metrics[0], metrics[0])})"] if tested else []
    header += ["Splits × seeds"]

    rows = []
    for label in dict.fromkeys(table["row"]):
        lines = table[table["row"] == label].set_index("metric")
        first = lines.iloc[0]
        marks = sorted({mark for _, line in lines.iterrows() for mark in _footnotes(line, reasons)})
        cells = [label + "".join(f" [{mark}]" for mark in marks), *(str(first[shown[key]]) for key in varying)]
        for metric in metrics:
            cells += [_estimate(lines.loc[metric])]
            cells += [_published(lines.loc[metric])] if published[metric] else []
        cells += [_p_value(first["p_adjusted"])] if tested else []
        cells += [f"{first['n_splits']} × {first['n_seeds']}" if first["status"] == "run" else ABSENT]
        rows.append(cells)

    below = _legend(table, tested, published.any()) + list(notes)
    below += [f"[{number}] {reason}." for number, reason in enumerate(reasons, start=1)]
    return Layout(header, rows, SIMULATED if simulated else "", below)


def to_markdown(layout: Layout, title: str) -> str:
    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"

    ruler = "|" + "|".join([":---", *["---:"] * (len(layout.header) - 1)]) + "|"
    body = [line(layout.header), ruler, *(line(row) for row in layout.rows)]
    notes = [f"- {note.replace('*', chr(92) + '*')}" for note in layout.notes]
    blocks = [f"## {title}", f"**{layout.first}**" if layout.first else "", "\n".join(body), "\n".join(notes)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_latex(layout: Layout, title: str, label: str) -> str:
    """A `table*` float for booktabs, scaled down where it is wider than the page; every text is escaped."""
    caption = escape(title + (f". {layout.first}" if layout.first else ""))
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering\small",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(layout.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape, layout.header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escape, row)) + r" \\" for row in layout.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize",
        *(escape(note) + r"\par" for note in layout.notes),
        r"\end{minipage}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def to_html(layout: Layout, title: str) -> str:
    """A `<section>` with heading, table and notes."""

    def cells(kind, texts):
        return "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in texts)

    first = f'<p class="simulated">{html.escape(layout.first)}</p>' if layout.first else ""
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in layout.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in layout.notes)
    return (
        f'<section class="table"><h3>{html.escape(title)}</h3>{first}<div class="scroll"><table>\n'
        f"<thead><tr>{cells('th', layout.header)}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
        f'<ul class="notes">{notes}</ul></section>\n'
    )


def _shown(table: pd.DataFrame, key: str) -> str:
    """The column to be shown for a setting: its labels, unless there are none or two entries share one."""
    label = f"{key}_label"
    told = label in table and table[[key, label]].drop_duplicates()[label].is_unique
    return label if told else key


def _estimate(line: pd.Series) -> str:
    if line["status"] != "run":
        return "not run"
    if pd.isna(line["estimate"]):
        return ABSENT
    text = f"{line['estimate']:.3f}"
    if pd.notna(line["half_width_t"]):
        text += f" ± {line['half_width_t']:.3f}"
    if pd.notna(line["ci_low"]):
        text += f" ({line['ci_low']:.3f}–{line['ci_high']:.3f})"
    return text + ("*" if line["p_adjusted"] < 0.05 else "")


def _published(line: pd.Series) -> str:
    if pd.isna(line["published"]):
        return ABSENT
    half_width = f" ± {line['published_ci']:.3f}" if pd.notna(line["published_ci"]) else ""
    return f"{line['published']:.3f}{half_width}"


def _p_value(p: float) -> str:
    if pd.isna(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _footnotes(line: pd.Series, reasons: list[str]) -> list[int]:
    """The numbers of the footnotes that this line needs; new reasons are appended to `reasons`."""
    if line["status"] != "run":
        of_line = [line["status"]]
    else:
        of_line = [f"{METRIC_NAMES.get(line.name, line.name)}: {line['note']}"] if line["note"] else []
        of_line += [line["test"]] if line["test"] == OTHER_CASES else []
    of_line = [reason[0].upper() + reason[1:] for reason in of_line]
    reasons += [reason for reason in of_line if reason not in reasons]
    return [reasons.index(reason) + 1 for reason in of_line]


def _legend(table: pd.DataFrame, tested: bool, published: bool) -> list[str]:
    run = table[table["status"] == "run"]
    external = run["scored_on"] != OWN
    own = run[~external]
    legend = []
    if (own["n_splits"] > 1).any():
        legend.append(
            "Estimate: mean over splits of the mean over seeds. ±: half the 95 % t-interval over splits, as the papers "
            "print it; it treats splits that share cases as independent and is too narrow. In brackets: the 95 % "
            "interval corrected for the overlap of the splits (Nadeau and Bengio)."
        )
    if ((own["n_splits"] == 1) & own["ci_low"].notna()).any():
        legend.append(
            "With a single split, the estimate is the mean over seeds. In brackets: its 95 % bootstrap interval over "
            "the test cases, with the models as they are; how other training cases would change them it does not say."
        )
    if external.any():
        cases = run[external].groupby("scored_on_label", sort=False)["n_external"].max()
        legend.append(
            f"Scored on {' and '.join(f'{name} ({n} cases)' for name, n in cases.items())}: the models of the row's "
            "splits and seeds, neither trained nor chosen nor scaled anew, all on the same cases. Estimate: mean over "
            "these models. In brackets: its 95 % bootstrap interval over the cases, with the models as they are."
        )
    if run["metric"].str.startswith("slide_").any():
        legend.append(
            "Per slide: each test slide counts once, a secondary figure for comparison with papers that report it so. "
            "Slides of one case are not independent: a bootstrap draws cases with all their slides, and the intervals "
            "over splits count cases."
        )
    if tested:
        of = repr(table["reference_row"].iloc[0])
        said = {
            PAIRED_T: f"corrected paired t-test against {of} on the same splits",
            PAIRED_BOOTSTRAP: f"two-sided bootstrap over the cases, paired with {of} on the same resamples",
        }
        tests = " or ".join(text for test, text in said.items() if (run["test"] == test).any())
        legend.append(f"p: {tests}, adjusted by Holm over the rows of a metric. *: adjusted p < 0.05.")
    if published:
        legend.append("Published: the figure and ± that the paper prints, on its own cases and splits.")
    return legend

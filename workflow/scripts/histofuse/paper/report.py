"""The report: one HTML page that needs nothing beside it, neither files nor scripts nor a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from histofuse.io import InputError
from histofuse.paper.render import ABSENT

PACKAGES = ("torch", "numpy", "pandas", "scikit-learn", "scikit-survival", "lifelines", "timm", "anndata", "snakemake")
MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
# Columns of a table of slides that are shown as a mean over the slides that are used, where the table has them.
SHARES = {
    "tissue_fraction": "Tissue",
    "blurred_fraction": "Blurred",
    "pen_fraction": "Pen",
    "fold_fraction": "Folds",
    "black_fraction": "Black",
    "encoder_share": "Encoder",
}
REACHABLE_NAMES = {
    "latent": "The simulated log hazard itself: no model can be expected to beat it",
    "both": "Best risk from genomics and slides, as simulated",
    "genomics": "Best risk from genomics alone",
    "slides": "Best risk from slides alone",
    "tumour": "Tumour factor alone",
    "microenvironment": "Microenvironment factor alone",
}
_GENES = (
    "{}: genes of each group",
    "listed: names in the list; renamed: former names among them; known: different genes; expressed: of these, "
    "measured in the cohort; exclusive: left after genes of both the tumour and the microenvironment went to a group "
    "of their own; unknown: names that no gene has. Then what each selection keeps, least and most over its splits.",
)
_SMOOTHED = (
    "{}: mixtures and single cells of held-out donors",
    "Errors, and Pearson's r, are of the shares of the cell types in mixtures of two cells; accuracy is on single "
    "cells. Chance predicts the mean shares of training.",
)
_TUNED = (
    "{}",
    "metric: Harrell C or macro AUC of the inner validation part, mean over splits, with the entry's own settings and "
    "with the chosen ones; as the best of several, the latter promises more than test cases will keep. own settings "
    "kept: in how many splits none was better. Then the settings chosen: median (least to most) over splits, or how "
    "many splits chose each.",
)
STYLE = """ :root { color-scheme: light; } body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a;
max-width: 72rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; } h1 { font-size: 1.7rem; margin-bottom: 0; } h2
{ margin-top: 2.5rem; border-bottom: 1px solid #ccc; } h3 { font-size: 1.05rem; margin-bottom: .4rem; } nav a
{ margin-right: 1.2rem; } a { color: #0072b2; } .scroll { overflow-x: auto; } table { border-collapse:
collapse; border-top: 2px solid #333; border-bottom: 2px solid #333; font-size: .85rem; } th, td { padding:
.25rem .8rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; } th {
border-bottom: 1px solid #333; } th:first-child, td:first-child { text-align: left; } tbody tr:nth-child(even)
{ background: #f5f5f5; } table.prose :is(th, td) { text-align: left; white-space: normal; } .notes { font-size: .8rem;
color: #444; padding-left: 1.2rem; max-width: 60rem; } .simulated { background: #fff3d6; border-left: 4px
solid #d55e00; padding: .3rem .8rem; } figure { display: inline-block; margin: 0 1.5rem 1.5rem 0;
vertical-align: top; max-width: 100%; } figure img { max-width: 100%; } figcaption { font-size: .85rem;
max-width: 34rem; }
"""


@dataclass
class Report:
    """What the page shows.

    `tables` are HTML sections (`render.to_html`); `figures`, `heatmaps` and `sheets` are (path of an SVG or PNG,
    caption); `slides` are (where, table of all slides of a cohort, encoded in one way); `excluded` has the columns
    `where, what, id, reason` (what: case or slide); `used` counts (where, what) that took part; `reachable` gives for
    each simulated cohort the C-index of each latent risk; `filters` are (cohort, genes of each group left by each
    filter); `smoothings` are (embedding, scores on held-out donors); `tunings` are (title of a table, how its rows were
    tuned); `provenance` is shown as it is.
    """

    title: str
    tables: Sequence[str] = ()
    figures: Sequence[tuple[str | Path, str]] = ()
    slides: Sequence[tuple[str, pd.DataFrame]] = ()
    heatmaps: Sequence[tuple[str | Path, str]] = ()
    sheets: Sequence[tuple[str | Path, str]] = ()
    excluded: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["where", "what", "id", "reason"]))
    used: Mapping[tuple[str, str], int] = field(default_factory=dict)
    reachable: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    filters: Sequence[tuple[str, pd.DataFrame]] = ()
    smoothings: Sequence[tuple[str, pd.DataFrame]] = ()
    tunings: Sequence[tuple[str, pd.DataFrame]] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def to_page(report: Report) -> str:
    """The whole page. Every text is escaped; figures are embedded."""
    sections = {
        "tables": ("Tables", "\n".join(report.tables)),
        "reachable": ("What can be reached", "".join(_reachable(*item) for item in report.reachable.items())),
        "tuning": ("Tuning", "".join(_frame(*_TUNED, *item) for item in report.tunings)),
        "figures": ("Figures", "\n".join(_figure(path, caption) for path, caption in report.figures)),
        "genes": ("Genes", "".join(_frame(*_GENES, *item) for item in report.filters)),
        "smoothings": ("Smoothed embeddings", "".join(_frame(*_SMOOTHED, *item) for item in report.smoothings)),
        "exclusions": ("Cases and slides", _exclusions(report.excluded, report.used)),
        "slides": ("Slides", _slides(report)),
        "provenance": ("What ran", _pairs(report.provenance)),
    }
    shown = {anchor: section for anchor, section in sections.items() if section[1]}
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, (heading, _) in shown.items())
    body = "\n".join(f'<h2 id="{anchor}">{heading}</h2>\n{content}' for anchor, (heading, content) in shown.items())
    title = html.escape(report.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{title}</h1>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones among `packages`."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # a rule's own environment holds only what the rule needs
    return versions


def excluded_slides(slides: pd.DataFrame, where: str) -> tuple[pd.DataFrame, int]:
    """Excluded slides of a table of slides (`slide_id, status, reason`) in the report's columns, and how many
    were used.
    """
    out = slides[slides["status"] == "excluded"]
    frame = pd.DataFrame({"where": where, "what": "slide", "id": out["slide_id"], "reason": out["reason"]})
    return frame, int((slides["status"] == "used").sum())


def excluded_cases(excluded: pd.DataFrame, where: str) -> pd.DataFrame:
    """Cases set aside (`case_id, reason`) in the report's columns."""
    return pd.DataFrame({"where": where, "what": "case", "id": excluded["case_id"], "reason": excluded["reason"]})


def _figure(path: str | Path, caption: str) -> str:
    path = Path(path)
    if path.suffix not in MEDIA_TYPES:
        raise InputError(f"{path}: figures in the report are .svg or .png")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = html.escape(caption)
    source = f"data:{MEDIA_TYPES[path.suffix]};base64,{data}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _reachable(cohort: str, values: Mapping[str, float]) -> str:
    named = {REACHABLE_NAMES.get(name, name): f"{value:.3f}" for name, value in values.items()}
    return f"<h3>{html.escape(cohort)}: Harrell C of the risks behind the simulation</h3>{_pairs(named)}"


def _frame(heading: str, note: str, name: str, frame: pd.DataFrame) -> str:
    """A small frame as it is, under a heading, with a note below; numbers have three decimals."""
    shown = frame.map(
        lambda value: "" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value)
    )
    table = _plain_table([str(column).replace("_", " ") for column in shown], shown.to_numpy())
    return f'<h3>{html.escape(heading.format(name))}</h3>{table}<p class="notes">{html.escape(note)}</p>'


def _plain_table(header: Sequence[str], rows) -> str:
    """A table of figures: the first column to the left, the others to the right."""
    return _table(header, rows, "")


def _slides(report: Report) -> str:
    """Counts of slides, stains and quality; heatmaps; contact sheets."""
    parts = []
    if report.slides:
        rows = [_counts(where, slides) for where, slides in report.slides]
        shares = [name for column, name in SHARES.items() if any(column in slides for _, slides in report.slides)]
        header = ["Cohort, features", "Slides used", "Tiles", "Stains", *shares]
        parts.append(_plain_table(header, [[row.get(name, ABSENT) for name in header] for row in rows]))
        parts.append(
            '<p class="notes">Tiles (or regions): median (least to most) per slide that is used. Stains: slides per '
            "method that was applied. Shares are means over the slides that are used: tissue of the whole scan; what "
            "the quality check found blurred, under pen, folded and black; the part of encoding's time in which the "
            "encoder computed. Why slides are set aside stands under Cases and slides.</p>"
        )
        reasons = [row for where, slides in report.slides for row in _reasons(where, slides)]
        if reasons:
            parts.append("<h3>Stains not normalised as asked for</h3>")
            parts.append(_prose_table(("Cohort, features", "Slides", "Stains", "Why"), reasons))
    for heading, pictures in (("Heatmaps", report.heatmaps), ("Contact sheets", report.sheets)):
        if pictures:
            shown = "\n".join(_figure(path, caption) for path, caption in pictures)
            parts.append(f"<h3>{heading}</h3>\n{shown}")
    return "\n".join(parts)


def _counts(where: str, slides: pd.DataFrame) -> dict[str, str]:
    """A cohort's line of the table of slides, by column."""
    used = slides[slides["status"] == "used"]
    tiles = used["n_regions" if "n_regions" in used else "n_tiles"].dropna()
    row = {"Cohort, features": where, "Slides used": f"{len(used)} of {len(slides)}"}
    if len(tiles):
        row["Tiles"] = f"{tiles.median():.0f} ({tiles.min()} to {tiles.max()})"
    if "stain" in used:
        row["Stains"] = ", ".join(f"{method or 'none'} {n}" for method, n in used["stain"].value_counts().items())
    for column, name in SHARES.items():
        if column in used and used[column].notna().any():
            row[name] = f"{100 * used[column].mean():.1f} %"
    return row


def _reasons(where: str, slides: pd.DataFrame) -> list[tuple[str, int, str, str]]:
    """How many slides had their stains treated otherwise than asked for, how and why."""
    if "stain_reason" not in slides:
        return []
    told = slides[(slides["status"] == "used") & (slides["stain_reason"].fillna("") != "")]
    groups = told.groupby(["stain", "stain_reason"]).size()
    return [(where, n, stain or "none", reason) for (stain, reason), n in groups.items()]


def _exclusions(excluded: pd.DataFrame, used: Mapping[tuple[str, str], int]) -> str:
    """Counts per place and reason, and the full list folded away."""
    if excluded.empty and not used:
        return ""
    counts = excluded.groupby(["where", "what", "reason"]).size()
    rows = [(where, what, f"{n} used", "") for (where, what), n in used.items()]
    rows += [(where, what, f"{n} set aside", reason) for (where, what, reason), n in counts.items()]
    rows.sort(key=lambda row: row[:2])
    summary = _prose_table(("Where", "What", "How many", "Reason"), rows)
    if excluded.empty:
        return summary
    listed = excluded.sort_values(["where", "what", "id"])[["where", "what", "id", "reason"]]
    full = _prose_table(("Where", "What", "Name", "Reason"), listed.itertuples(index=False))
    return f"{summary}<details><summary>All {len(excluded)} by name</summary>{full}</details>"


def _prose_table(header: Sequence[str], rows) -> str:
    """A table of words, to the left, in lines of any length."""
    return _table(header, rows, ' class="prose"')


def _table(header: Sequence[str], rows, kind: str) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _pairs(pairs: Mapping[str, str]) -> str:
    if not pairs:
        return ""
    rows = "\n".join(f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in pairs.items())
    return f'<div class="scroll"><table class="prose"><tbody>{rows}</tbody></table></div>'

"""The report of a run: all tables and figures, what was set aside and why, and what ran, in one HTML file."""

import json
from pathlib import Path

import pandas as pd

from histofuse.io import read_table, start_log, write_text
from histofuse.paper.render import lay_out, to_html
from histofuse.paper.report import Report, excluded_cases, excluded_slides, package_versions, to_page
from histofuse.paper.tuning import summarise

start_log(snakemake.log[0])
given, params = snakemake.input, snakemake.params

tables = []
for path, shown in zip(given.tables, params.tables, strict=True):
    layout = lay_out(read_table(path), [shown["note"]] if shown.get("note") else [], shown["simulated"])
    tables.append(to_html(layout, shown["title"]))

report = Report(
    title=params.title,
    tables=tables,
    figures=list(zip(given.figures, params.figures, strict=True)),
    slides=[(where, read_table(path)) for path, where in zip(given.slides, params.slides, strict=True)],
    heatmaps=list(zip(given.heatmaps, params.heatmaps, strict=True)),
    sheets=list(zip(given.sheets, params.sheets, strict=True)),
    reachable={
        cohort: json.loads(Path(path).read_text())
        for path, cohort in zip(given.reachable, params.reachable, strict=True)
    },
    filters=[
        (where, read_table(path, keep_default_na=False))
        for path, where in zip(given.filters, params.filters, strict=True)
    ],
    smoothings=[
        (name, read_table(path, dtype={"bank": str, "passes": str}))
        for path, name in zip(given.smoothings, params.smoothings, strict=True)
    ],
    tunings=[(title, summarise(read_table(path))) for path, title in zip(given.tunings, params.tunings, strict=True)],
    provenance={**params.provenance, **package_versions()},
)
excluded = [report.excluded]
for path, where in zip(given.excluded, params.excluded, strict=True):
    excluded.append(excluded_cases(read_table(path), where))
for where, slides in report.slides:
    aside, report.used[where, "slide"] = excluded_slides(slides, where)
    excluded.append(aside)
for path, where in zip(given.populations, params.populations, strict=True):
    report.used[where, "case"] = len(read_table(path, columns=["case_id"]))
report.excluded = pd.concat(excluded, ignore_index=True)

write_text(to_page(report), snakemake.output.html)

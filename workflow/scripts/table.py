"""One table of the paper from the metrics of its runs, as CSV, Markdown and LaTeX."""

import json
from pathlib import Path

import pandas as pd

from histofuse.evaluation.score import COLUMNS, LABELS
from histofuse.io import read_table, start_log, write_table, write_text
from histofuse.paper.render import lay_out, to_latex, to_markdown
from histofuse.paper.tables import build_table, check_published, summarise_rows, unavailable_rows

start_log(snakemake.log[0])
name, entry = snakemake.params.name, snakemake.params.entry

metrics = [read_table(path) for path in snakemake.input.get("metrics", [])]
metrics = pd.concat(metrics, ignore_index=True) if metrics else pd.DataFrame(columns=LABELS + COLUMNS)
published_path = snakemake.input.get("published")
published = check_published(read_table(published_path), published_path) if published_path else None

found = {Path(path).parent.name: json.loads(Path(path).read_text()) for path in snakemake.input.get("availability", [])}
absent = {cohort: answer["reason"] for cohort, answer in found.items() if not answer["available"]}
reasons = {
    cohort: "; ".join(absent[member] for member in members if member in absent)
    for cohort, members in snakemake.params.members.items()
    if not absent.keys().isdisjoint(members)
}

table = build_table(
    entry,
    summarise_rows(entry, metrics),
    published=published,
    unavailable=snakemake.params.absent | unavailable_rows(entry, reasons),
    name=name,
    simulated=snakemake.params.simulated,
    labels=snakemake.params.labels,
)
write_table(table, snakemake.output.csv)

notes = [entry["note"]] if entry.get("note") else []
layout = lay_out(table, notes, snakemake.params.simulated)
write_text(to_markdown(layout, entry["title"]), snakemake.output.md)
write_text(to_latex(layout, entry["title"], label=name), snakemake.output.tex)

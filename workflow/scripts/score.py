"""Metrics of a model's test predictions, per split and seed, of cases and of slides."""

import pandas as pd

from histofuse.evaluation.score import LABELS, score_run
from histofuse.io import InputError, progress, read_table, start_log, write_table

start_log(snakemake.log[0])

scored = []
slides = snakemake.input.get("slides") or [None] * len(snakemake.input.predictions)
for path, of_slides in zip(progress(snakemake.input.predictions, "score"), slides, strict=True):
    try:
        scored.append(score_run(read_table(path), snakemake.params.kind, of_slides and read_table(of_slides)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error

metrics = pd.concat(scored, ignore_index=True)
labels = pd.DataFrame(snakemake.params.labels, index=metrics.index, columns=LABELS)
write_table(pd.concat([labels, metrics], axis=1), snakemake.output.metrics)

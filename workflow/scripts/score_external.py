"""Metrics of a model's predictions for another cohort, per split and seed, with replicates over its cases."""

import pandas as pd

from histofuse.evaluation.external import score_external
from histofuse.evaluation.score import LABELS
from histofuse.io import InputError, progress, read_table, start_log, write_table

start_log(snakemake.log[0])

scored = []
given = snakemake.input
for path, slides in zip(progress(given.predictions, "score"), given.slides, strict=True):
    try:
        scored.append(score_external(read_table(path), read_table(slides), snakemake.params.kind))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error

metrics = pd.concat(scored, ignore_index=True)
labels = pd.DataFrame(snakemake.params.labels, index=metrics.index, columns=LABELS)
write_table(pd.concat([labels, metrics], axis=1), snakemake.output.metrics)

"""Metrics of a model's predictions for another cohort, per split and seed, with replicates over its cases."""

import pandas as pd

from histofuse.evaluation.score import LABELS, of_each_slide, score_run
from histofuse.io import InputError, progress, read_table, start_log, write_table

start_log(snakemake.log[0])

scored = []
given = snakemake.input
index = read_table(given.slide_index[0]) if given.get("slide_index") else None
for path, slides in zip(progress(given.predictions, "score"), given.slides, strict=True):
    try:
        predictions = read_table(path)
        of_slides = of_each_slide(predictions, read_table(slides), index)
        scored.append(score_run(predictions, snakemake.params.kind, of_slides, own_censoring=True, resampled=True))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error

metrics = pd.concat(scored, ignore_index=True)
labels = pd.DataFrame(snakemake.params.labels, index=metrics.index, columns=LABELS)
write_table(pd.concat([labels, metrics], axis=1), snakemake.output.metrics)

"""Metrics of a model's test predictions, per split and seed, of cases and of slides; replicates of a single split."""

import pandas as pd

from histofuse.evaluation.score import LABELS, of_each_slide, score_run
from histofuse.io import InputError, progress, read_table, start_log, write_table

start_log(snakemake.log[0])

scored = []
given, params = snakemake.input, snakemake.params
slides = given.get("slides") or [None] * len(given.predictions)  # released predictions have none
index = read_table(given.slide_index[0]) if given.get("slide_index") else None
for path, own in zip(progress(given.predictions, "score"), slides, strict=True):
    try:
        predictions = read_table(path)
        of_slides = own and of_each_slide(predictions, read_table(own), index)
        scored.append(
            score_run(predictions, params.kind, of_slides, resampled=params.resampled, anonymous=params.anonymous)
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error

metrics = pd.concat(scored, ignore_index=True)
labels = pd.DataFrame(params.labels, index=metrics.index, columns=LABELS)
write_table(pd.concat([labels, metrics], axis=1), snakemake.output.metrics)

"""ROC curves of a table's classifiers, a panel per class, as SVG and PNG."""

import pandas as pd

from histofuse.io import read_table, start_log
from histofuse.paper.roc import roc_figure
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

runs = {}
for path, label in zip(snakemake.input.predictions, snakemake.params.labels, strict=True):
    runs.setdefault(label, []).append(read_table(path))
predictions = {label: pd.concat(frames, ignore_index=True) for label, frames in runs.items()}
figure = roc_figure(predictions, snakemake.params.classes, snakemake.params.title)
save_figure(figure, snakemake.output.svg, snakemake.output.png)

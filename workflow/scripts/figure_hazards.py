"""Histogram of a model's predicted risks of test cases, by what became of them, as SVG and PNG."""

import pandas as pd

from histofuse.io import read_table, start_log
from histofuse.paper.hazards import hazards_figure, standardise
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

predictions = pd.concat([read_table(path) for path in snakemake.input.predictions], ignore_index=True)
save_figure(
    hazards_figure(standardise(predictions), snakemake.params.title), snakemake.output.svg, snakemake.output.png
)

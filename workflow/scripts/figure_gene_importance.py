"""What permuting each input does to the branches of a model, over all its runs, as SVG and PNG."""

import pandas as pd

from histofuse.io import read_table, start_log
from histofuse.paper.gene_importance import importance_figure
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

importance = pd.concat([read_table(path) for path in snakemake.input.importance], ignore_index=True)
save_figure(importance_figure(importance, snakemake.params.title), snakemake.output.svg, snakemake.output.png)

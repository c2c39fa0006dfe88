"""How the two branches of a model were trained side by side, over the epochs of all its runs, as SVG and PNG."""

import pandas as pd

from histofuse.io import read_table, start_log
from histofuse.paper.modulation import branch_scores, modulation_figure
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

history = pd.concat([read_table(path) for path in snakemake.input.histories], ignore_index=True)
scores, metric = None, "macro_auc"
if snakemake.params.kind == "survival":
    predictions = pd.concat([read_table(path) for path in snakemake.input.predictions], ignore_index=True)
    scores, metric = branch_scores(predictions), "harrell_c"
figure = modulation_figure(history, scores, snakemake.params.title, metric)
save_figure(figure, snakemake.output.svg, snakemake.output.png)

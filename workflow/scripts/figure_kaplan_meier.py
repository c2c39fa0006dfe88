"""Kaplan–Meier curves of a model's test cases by predicted risk, as SVG and PNG."""

import pandas as pd

from histofuse.io import read_table, start_log
from histofuse.paper.kaplan_meier import kaplan_meier_figure, risk_groups
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

predictions = pd.concat([read_table(path) for path in snakemake.input.predictions], ignore_index=True)
figure = kaplan_meier_figure(risk_groups(predictions), snakemake.params.title)
save_figure(figure, snakemake.output.svg, snakemake.output.png)

"""A table of the paper drawn as estimates with both intervals, as SVG and PNG."""

from histofuse.io import read_table, start_log
from histofuse.paper.intervals import table_figure
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

entry = snakemake.params.entry
table = read_table(snakemake.input.table)
figure = table_figure(table, entry["metrics"][0], entry["title"], snakemake.params.simulated)
save_figure(figure, snakemake.output.svg, snakemake.output.png)

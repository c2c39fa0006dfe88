"""A table's metrics over the values of a parameter, as SVG and PNG."""

from histofuse.io import read_table, start_log
from histofuse.paper.sensitivity import sensitivity_figure
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])

entry, table = snakemake.params.entry, read_table(snakemake.input.table)
shown = entry["sensitivity"]
figure = sensitivity_figure(table, shown["rows"], shown["label"], entry["title"], snakemake.params.simulated)
save_figure(figure, snakemake.output.svg, snakemake.output.png)

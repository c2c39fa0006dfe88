"""What smoothing does to a space of cells: distances along walks from one cell type to another, as SVG and PNG."""

from histofuse.io import read_table, start_log
from histofuse.paper.interpolation import interpolation_figure
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])
figure = interpolation_figure(read_table(snakemake.input.distances), snakemake.params.title)
save_figure(figure, snakemake.output.svg, snakemake.output.png)

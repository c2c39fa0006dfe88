"""Points that a run's attention reads, over four of its test slides, as SVG and PNG."""

from histofuse.io import read_table, start_log
from histofuse.paper.sampling_points import make_panels, sampling_figure
from histofuse.paper.slide_places import find_places
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])
given = snakemake.input

points = read_table(given.shown)
files = find_places(given.folders, points["slide_id"].unique())
panels = make_panels(points, read_table(given.predictions), files, snakemake.params.classes)
save_figure(sampling_figure(panels, snakemake.params.title), snakemake.output.svg, snakemake.output.png)

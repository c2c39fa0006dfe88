"""Heatmaps of a run's tile scores over four of its test slides, as SVG and PNG."""

from histofuse.io import read_table, start_log
from histofuse.paper.heatmaps import heatmap_figure, make_panels, note_on
from histofuse.paper.slide_places import find_places
from histofuse.paper.style import save_figure

start_log(snakemake.log[0])
given, classes = snakemake.input, snakemake.params.classes

scores = read_table(given.shown)
slides = scores["slide_id"].unique()
files = find_places(given.folders, slides)
panels = make_panels(scores, read_table(given.predictions), files, classes)
note = note_on(panels, len(slides) - len(files), len(slides), bool(classes))
save_figure(heatmap_figure(panels, snakemake.params.title, note), snakemake.output.svg, snakemake.output.png)

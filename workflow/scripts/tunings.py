"""The trials of all rows and splits of a table in one file."""

from histofuse.io import read_table, start_log, write_table
from histofuse.paper.tuning import collect

start_log(snakemake.log[0])
trials = [read_table(path) for path in snakemake.input.trials]
write_table(collect(trials, snakemake.params.labels), snakemake.output.csv)

"""Write a simulated cohort: a mirror of the public servers, its manifest and the truth."""

from pathlib import Path

from histofuse.io import start_log
from histofuse.sources.simulated import simulate

start_log(snakemake.log[0])
simulate(dict(snakemake.params.settings), Path(snakemake.output.directory))

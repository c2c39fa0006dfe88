"""Write a simulated atlas of single cells as an .h5ad file."""

from histofuse.io import start_log
from histofuse.sources.simulated.atlas import simulate_atlas

start_log(snakemake.log[0])
simulate_atlas(dict(snakemake.params.settings), snakemake.output.atlas)

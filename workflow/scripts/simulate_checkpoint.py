"""Write a small untrained scGPT checkpoint: args.json, vocab.json, best_model.pt and a README in one folder."""

from pathlib import Path

from histofuse.io import start_log
from histofuse.sources.simulated.checkpoint import simulate_checkpoint

start_log(snakemake.log[0])
simulate_checkpoint(dict(snakemake.params.settings), Path(snakemake.output[0]).parent)

"""The best C-index that a simulated cohort allows, from the truth that only the simulator knows."""

from pathlib import Path

from histofuse.io import read_table, start_log, write_json
from histofuse.sources.simulated.truth import best_reachable

start_log(snakemake.log[0])
write_json(best_reachable(read_table(Path(snakemake.input.simulated, "truth.parquet"))), snakemake.output.reachable)

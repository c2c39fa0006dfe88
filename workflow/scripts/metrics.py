"""Put the metrics of all models of a cohort into one tidy table, without replicates and digests."""

import pandas as pd

from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
metrics = pd.concat([read_table(path) for path in snakemake.input.metrics], ignore_index=True)
write_table(metrics.drop(columns=["replicates", "cases"], errors="ignore"), snakemake.output.metrics)

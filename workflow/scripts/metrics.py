"""Put the metrics of all models of a cohort into one tidy table."""

import pandas as pd

from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
write_table(
    pd.concat([read_table(path) for path in snakemake.input.metrics], ignore_index=True), snakemake.output.metrics
)

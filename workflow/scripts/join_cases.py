"""Join the case tables of several cohorts; their names become the column `source`."""

import pandas as pd

from histofuse.cohort.cases import check_cases, read_cases
from histofuse.cohort.join import join_cases
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
names = snakemake.params.names
members = [(name, read_cases(path)) for name, path in zip(names, snakemake.input.members)]
cases, _ = check_cases(join_cases(members), snakemake.output.cases)
excluded = [read_table(path, dtype=str).assign(source=name) for name, path in zip(names, snakemake.input.excluded)]
print(cases.groupby("source")["event"].agg(cases="size", deaths="sum"))
write_table(cases, snakemake.output.cases)
write_table(pd.concat(excluded, ignore_index=True), snakemake.output.excluded)

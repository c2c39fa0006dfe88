"""Cut the training part of each split in two, for tuning; test cases are left out."""

from histofuse.cohort.cases import read_cases
from histofuse.cohort.splits import inner
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
tuning = snakemake.params.tuning

cases = read_table(snakemake.input.population)
about = read_cases(snakemake.input.cases).set_index("case_id")
cases["source"] = cases["case_id"].map(about["source"])
cases["diagnosis"] = cases["label"] if cases["label"].notna().any() else cases["case_id"].map(about["diagnosis"])
splits = inner(read_table(snakemake.input.splits), cases, tuning["inner"], tuning["seed"])
print(splits.groupby(["split", "part"]).size().unstack())
write_table(splits, snakemake.output.splits)

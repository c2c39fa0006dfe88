"""Draw the splits of a protocol, or take published ones; always by case."""

import pandas as pd

from histofuse.cohort.cases import read_cases
from histofuse.cohort.splits import check_splits, draw, given_files, read_given
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
protocol = snakemake.params.protocol
cases = read_cases(snakemake.input.cases)
if protocol["kind"] == "given":
    receipts = [read_table(path, dtype=str, keep_default_na=False) for path in snakemake.input.receipts]
    receipt = pd.concat(receipts, ignore_index=True)
    set_aside = read_table(snakemake.input.excluded, dtype=str)["case_id"]
    splits = read_given(given_files(receipt, protocol["name"]), set(set_aside) - set(cases["case_id"]))
    check_splits(splits, cases)
else:
    splits = draw(cases, protocol)
print(splits.groupby(["split", "part"]).size().unstack())
write_table(splits, snakemake.output.splits)

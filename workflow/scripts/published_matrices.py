"""Take expression and alterations out of a published table, one row per case."""

from histofuse.io import read_table, start_log, write_table
from histofuse.sources.published_tables import read_table_zip

start_log(snakemake.log[0])
receipt = read_table(snakemake.input[0], dtype=str, keep_default_na=False)
(path,) = receipt.loc[receipt["kind"] == "table", "path"]
table = read_table_zip(path)
print(table.report)
write_table(table.expression, snakemake.output.expression)
write_table(table.alterations, snakemake.output.alterations)

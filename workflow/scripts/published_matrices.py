"""Take expression and alterations out of a published table, one row per case and canonical symbols."""

from histofuse.genomics.genes import canonical_columns
from histofuse.io import read_table, start_log, write_table
from histofuse.sources.published_tables import read_table_zip

start_log(snakemake.log[0])
receipt = read_table(snakemake.input[0], dtype=str, keep_default_na=False)
(path,) = receipt.loc[receipt["kind"] == "table", "path"]
table = read_table_zip(path)
print(table.report)
write_table(canonical_columns(table.expression), snakemake.output.expression)
write_table(canonical_columns(table.alterations, ("_cnv", "_mut")), snakemake.output.alterations)

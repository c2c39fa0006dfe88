"""Find the genes of each group in a cohort's expression, and count what each step left."""

from histofuse.genomics.groups import read_groups, resolve
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
genes = read_table(snakemake.input.expression).columns.drop("case_id").tolist()
groups, report = resolve(read_groups(snakemake.input.groups), genes)
print(report.to_string(index=False))
write_table(groups, snakemake.output.groups)
write_table(report, snakemake.output.report)

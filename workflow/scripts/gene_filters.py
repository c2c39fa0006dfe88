"""Count what gene selections leave of each gene group: the smallest and the largest number over the splits."""

from pathlib import Path

from histofuse.genomics.groups import count_selected
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
report, groups = (read_table(path, keep_default_na=False) for path in (snakemake.input.report, snakemake.input.groups))
for path in map(Path, snakemake.input.selections):  # selections/{selection}/{protocol}.parquet
    report[f"{path.parent.name}, {path.stem}"] = count_selected(groups, report["group"], read_table(path))
print(report.to_string(index=False))
write_table(report, snakemake.output.filters)

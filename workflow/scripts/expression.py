"""Gather the cases' STAR counts into one expression matrix."""

import pandas as pd

from histofuse.genomics.expression import as_table, expression_matrix
from histofuse.io import atomic, read_table, start_log, write_table

start_log(snakemake.log[0])
settings = snakemake.params.settings
receipts = [read_table(path, dtype=str, keep_default_na=False) for path in snakemake.input.receipts]
receipt = pd.concat(receipts, ignore_index=True).query("kind == 'expression'")
matrix, excluded = expression_matrix(
    zip(receipt["case_id"], receipt["path"]),
    gene_types=settings.get("gene_types"),
    max_excluded=settings.get("max_excluded", 0.05),
)
print(f"{matrix.n_obs} cases × {matrix.n_vars} genes; {len(excluded)} files set aside")
with atomic(snakemake.output.h5ad) as temporary:
    matrix.write_h5ad(temporary, compression="gzip")
write_table(as_table(matrix), snakemake.output.expression)
write_table(excluded, snakemake.output.excluded)

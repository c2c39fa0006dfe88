"""Join the expression of several cohorts on the genes that they share."""

import anndata

from histofuse.genomics.expression import as_table, join_cohorts
from histofuse.io import atomic, start_log, write_table

start_log(snakemake.log[0])
members = [(name, anndata.read_h5ad(path)) for name, path in zip(snakemake.params.names, snakemake.input.members)]
matrix = join_cohorts(members)
for name, member in members:
    print(f"{name}: {member.n_obs} cases × {member.n_vars} genes, {member.n_vars - matrix.n_vars} of them not shared")
print(f"{matrix.n_obs} cases × {matrix.n_vars} shared genes; TPM are per million of these")
with atomic(snakemake.output.h5ad) as temporary:
    matrix.write_h5ad(temporary, compression="gzip")
write_table(as_table(matrix), snakemake.output.expression)

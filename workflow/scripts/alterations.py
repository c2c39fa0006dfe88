"""Gather the cases' mutations and copy number into one matrix of alterations, and the calls that a diagnosis needs."""

import pandas as pd

from histofuse.genomics.alterations import alteration_matrix
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
settings = snakemake.params.settings
receipts = [read_table(path, dtype=str, keep_default_na=False) for path in snakemake.input.receipts]
receipt = pd.concat(receipts, ignore_index=True)
files = {kind: list(zip(rows["case_id"], rows["path"])) for kind, rows in receipt.groupby("kind")}
matrix, excluded, of_diagnosis = alteration_matrix(
    files.get("mutations", []),
    files.get("copy_number", []),
    genes=settings.get("genes", []),
    min_frequency=settings.get("min_frequency", 0.05),
    max_excluded=settings.get("max_excluded", 0.05),
)
print(f"{len(matrix)} cases × {matrix.shape[1] - 1} alterations; {len(excluded)} files set aside")
print(f"{len(of_diagnosis)} cases with copy number, for the diagnosis")
write_table(matrix, snakemake.output.alterations)
write_table(of_diagnosis, snakemake.output.of_diagnosis)
write_table(excluded, snakemake.output.excluded)

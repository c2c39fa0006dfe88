"""Pass the embedded cases of a cohort through a trained smoothing."""

from safetensors.numpy import load_file

from histofuse.genomics.embedding import embedding_table
from histofuse.genomics.smoothing.mlp import smooth
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
table = read_table(snakemake.input.embedding)
smoothed = smooth(load_file(snakemake.input.weights), table.drop(columns="case_id").to_numpy())
write_table(embedding_table(table["case_id"], smoothed, "smoothed"), snakemake.output.smoothed)

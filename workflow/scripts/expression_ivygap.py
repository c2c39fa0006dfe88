"""Turn IvyGAP's expression of microdissected samples into one profile per tumour."""

import pandas as pd

from histofuse.genomics.expression import as_table, of_types
from histofuse.genomics.ivygap import add_details, add_sub_blocks, by_case, read_ivygap_zip
from histofuse.io import atomic, read_table, start_log, write_table
from histofuse.sources.ivygap import read_details

start_log(snakemake.log[0])
settings = snakemake.params.settings
receipts = [read_table(path, dtype=str, keep_default_na=False) for path in snakemake.input.receipts]
paths = pd.concat(receipts).set_index("kind")["path"]  # one file of each kind
samples = read_ivygap_zip(paths["ivygap_expression"])
if "ivygap_samples" in paths:
    add_details(samples, read_details(paths["ivygap_samples"]), paths["ivygap_samples"])
if "ivygap_sub_blocks" in paths:
    add_sub_blocks(samples, read_details(paths["ivygap_sub_blocks"]), paths["ivygap_sub_blocks"])
    print(f"{(samples.obs['sub_block_id'] != '').sum()} of {samples.n_obs} samples have a known sub-block")
matrix = of_types(by_case(samples, settings.get("structures")), settings.get("gene_types"))
without = sorted(set(samples.obs["case_id"]) - set(matrix.obs_names))
excluded = pd.DataFrame({"case_id": without, "reason": "no sample of the chosen structures"}, dtype=str)
print(f"{samples.n_obs} samples; {matrix.n_obs} tumours × {matrix.n_vars} genes; {len(excluded)} set aside")
for content, path in ((samples, snakemake.output.samples), (matrix, snakemake.output.h5ad)):
    with atomic(path) as temporary:
        content.write_h5ad(temporary, compression="gzip")
write_table(as_table(matrix), snakemake.output.expression)
write_table(excluded, snakemake.output.excluded)

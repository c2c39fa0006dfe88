"""Choose the genes that every profile is shown to scGPT by, from the training donors of an atlas or a user's list."""

import pandas as pd

from histofuse.genomics.embedding import token_of_gene
from histofuse.genomics.genes import gene_names
from histofuse.genomics.scgpt.vocabulary import Vocabulary
from histofuse.genomics.smoothing.atlas import read_atlas
from histofuse.genomics.smoothing.panel import choose_panel, given_panel
from histofuse.io import start_log, write_json, write_table

start_log(snakemake.log[0])
settings = snakemake.params.panel
atlas = read_atlas(snakemake.input.atlas, **snakemake.params.atlas)
print(pd.Series(atlas.report).to_string())
tokens = set(token_of_gene(Vocabulary.from_file(snakemake.input.vocabulary)))
if settings.get("file"):
    panel = given_panel(snakemake.input.given, atlas, tokens)
else:
    coding = gene_names().protein_coding()
    panel = choose_panel(atlas, tokens, coding, settings.get("size", 1199), settings.get("flavour", "seurat_v3"))
print(f"{len(panel)} genes, of {len(atlas.genes)} of the atlas and {len(tokens)} with a token")
write_table(panel, snakemake.output.panel)
write_json(atlas.report, snakemake.output.atlas)

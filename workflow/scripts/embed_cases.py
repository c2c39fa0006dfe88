"""Embed the cases of a cohort; cases whose profile was embedded before are taken from the cache."""

from pathlib import Path

import anndata

from histofuse.genomics.embedding import case_profiles, embed_profiles, embedding_table, prepare_torch
from histofuse.genomics.scgpt.cache import EmbeddingCache, cache_digest
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.io import hide_gpus, read_table, start_log, write_table

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
settings = snakemake.params.settings
panel = None if settings.get("subsets") else read_table(snakemake.input.panel)["gene"].tolist()
matrix = anndata.read_h5ad(snakemake.input.h5ad)
profiles, genes = case_profiles(matrix, panel, settings.get("values", "tpm"), settings.get("max_missing", 0.2))
device = prepare_torch(snakemake.threads)
checkpoint = load_checkpoint(Path(snakemake.input.model).parent, device=device)
cache = EmbeddingCache(
    snakemake.params.cache,
    cache_digest(
        checkpoint=checkpoint.digest,
        panel=panel,
        precision=settings.get("precision", "float32"),
        device=device,
        threads=snakemake.threads,
        code=snakemake.params.code,
    ),
    part=f"{snakemake.wildcards.cohort}_{snakemake.wildcards.embedding}",  # what no other job writes at the same time
)
embeddings = embed_profiles(checkpoint, profiles, genes, settings, matrix.obs_names.tolist(), cache)
print(f"{len(embeddings)} cases × {embeddings.shape[1]} dimensions from {len(genes)} genes")
write_table(embedding_table(matrix.obs_names, embeddings, "scgpt"), snakemake.output.embedding)

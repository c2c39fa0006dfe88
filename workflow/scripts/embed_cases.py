"""Embed the cases of a cohort; cases whose profile was embedded before are taken from the cache."""

import hashlib
import json
from pathlib import Path

import anndata

from histofuse.genomics.embedding import case_profiles, embed_profiles, embedding_table, prepare_torch
from histofuse.genomics.scgpt.cache import EmbeddingCache
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
settings = snakemake.params.settings
panel = None if settings.get("subsets") else read_table(snakemake.input.panel)["gene"].tolist()
matrix = anndata.read_h5ad(snakemake.input.h5ad)
profiles, genes = case_profiles(matrix, panel, settings.get("values", "tpm"), settings.get("max_missing", 0.2))
device = prepare_torch(snakemake.threads)
checkpoint = load_checkpoint(Path(snakemake.input.model).parent, device=device)
made_by = [checkpoint.digest, panel, settings.get("precision"), device, snakemake.threads, snakemake.params.code]
digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
cache = EmbeddingCache(snakemake.params.cache, digest)
embeddings = embed_profiles(checkpoint, profiles, genes, settings, matrix.obs_names.tolist(), cache)
print(f"{len(embeddings)} cases × {embeddings.shape[1]} dimensions from {len(genes)} genes")
write_table(embedding_table(matrix.obs_names, embeddings, "scgpt"), snakemake.output.embedding)

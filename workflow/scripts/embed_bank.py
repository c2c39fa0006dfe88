"""Embed mixtures of an atlas' cells, or single cells: what smoothings are trained on and judged by."""

from pathlib import Path

import numpy as np

from histofuse.genomics.embedding import embed_profiles, prepare_torch
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.smoothing.atlas import read_atlas
from histofuse.genomics.smoothing.mixup import draw_mixes, mixed_profiles, shown_by
from histofuse.io import atomic, hide_gpus, read_table, start_log

CHUNK = 20_000  # mixtures whose profiles are held at once: 100 MB at 1,199 genes

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
settings, bank = snakemake.params.settings, snakemake.wildcards.bank
panel = read_table(snakemake.input.panel)["gene"].tolist()
atlas = shown_by(read_atlas(snakemake.input.atlas, **snakemake.params.atlas), panel)
held_out = bank.startswith("held_out")
mixes = draw_mixes(
    atlas,
    snakemake.params.size,
    part="held_out" if held_out else "train",
    seed=settings.get("seed", 0),
    mixing=bank.endswith("mixed"),
)
checkpoint = load_checkpoint(Path(snakemake.input.model).parent, device=prepare_torch(snakemake.threads))
# No `values` or `subsets` among the settings: cells are counts of the panel, whatever the cases' values are.
parts = [mixes.part(slice(start, start + CHUNK)) for start in range(0, len(mixes), CHUNK)]
profiles = (mixed_profiles(atlas, part, panel) for part in parts)
embeddings = np.concatenate([embed_profiles(checkpoint, part, panel, settings) for part in profiles])
with atomic(snakemake.output.bank) as path:
    np.savez(path, embeddings=embeddings, targets=mixes.target, classes=np.array(atlas.classes))

"""Walk between cell types of held-out donors, and measure how straight the walks are in each space."""

from pathlib import Path

from safetensors.numpy import load_file

from histofuse.genomics.embedding import embed_profiles, prepare_torch
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.smoothing.atlas import read_atlas
from histofuse.genomics.smoothing.interpolation import distance_table, paths, straightness
from histofuse.genomics.smoothing.mixup import mixed_profiles, shown_by
from histofuse.genomics.smoothing.mlp import smooth
from histofuse.io import hide_gpus, read_table, start_log, write_table

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
settings = snakemake.params.settings
panel = read_table(snakemake.input.panel)["gene"].tolist()
atlas = shown_by(read_atlas(snakemake.input.atlas, **snakemake.params.atlas), panel)
walks = paths(atlas, settings.get("pairs"), steps=11, cells_per_pair=20, seed=settings.get("seed", 0))
checkpoint = load_checkpoint(Path(snakemake.input.model).parent, device=prepare_torch(snakemake.threads))
embeddings = embed_profiles(checkpoint, mixed_profiles(atlas, walks.mixes, panel), panel, settings)
spaces = {"scGPT": embeddings}
for name, path in zip(snakemake.params.smoothings, snakemake.input.weights, strict=True):
    spaces[name] = smooth(load_file(path), embeddings)
print("mean deviation from a straight walk:")
print(straightness(walks, spaces).query("pair == 'mean'").set_index("space")["deviation"].to_string())
write_table(distance_table(walks, spaces), snakemake.output.distances)

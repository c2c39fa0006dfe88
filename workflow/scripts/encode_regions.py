"""Encode the fixed crops of a batch of slides' regions.

input.directory, params.settings, params.regions, threads -> output.directory ({slide_id}.h5, .png and .thumbnail.jpg,
slides.parquet)
"""

from pathlib import Path

import torch

from histofuse.io import hide_gpus, start_log, write_table
from histofuse.slides.crops import encode_regions
from histofuse.slides.encoders import load_encoder

start_log(snakemake.log[0])
hide_gpus(snakemake.resources.gpu)
torch.set_num_threads(snakemake.threads)

settings, directory = snakemake.params.settings, Path(snakemake.output.directory)
slides = encode_regions(
    Path(snakemake.input.directory), snakemake.params.regions, settings, load_encoder(settings), directory
)
write_table(slides, directory / "slides.parquet")
print(slides.to_string())

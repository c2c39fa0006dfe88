"""Encode the slides of one receipt: tissue, tiles and features per slide, and a table of what was used.

input.receipt, params.settings, threads -> output.directory ({slide_id}.h5, {slide_id}.png, slides.parquet)
"""

from pathlib import Path

import torch

from histofuse.io import read_table, start_log, write_table
from histofuse.slides.encoders import load_encoder
from histofuse.slides.features import encode_slides

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)

receipt = read_table(snakemake.input.receipt, dtype={"case_id": str})
settings = snakemake.params.settings
directory = Path(snakemake.output.directory)
slides = encode_slides(
    receipt[receipt["kind"] == "slide"], settings, load_encoder(settings), directory, snakemake.threads
)
write_table(slides, directory / "slides.parquet")
print(slides.to_string())

"""Encode the slides of one receipt: tissue, tiles and features per slide, and a table of what was used.

input.receipt, params.settings, threads -> output.directory ({slide_id}.h5, {slide_id}.png, {slide_id}.thumbnail.jpg,
slides.parquet)
"""

from pathlib import Path

import torch

from histofuse.io import hide_gpus, read_table, start_log, write_table
from histofuse.slides.encoders import load_encoder
from histofuse.slides.features import encode_slides
from histofuse.slides.stream import Readers


def main():
    start_log(snakemake.log[0])
    hide_gpus(snakemake.resources.gpu)
    torch.set_num_threads(snakemake.threads)

    receipt = read_table(snakemake.input.receipt, dtype=str, keep_default_na=False)
    settings = snakemake.params.settings
    directory = Path(snakemake.output.directory)
    encoder = load_encoder(settings)
    # Beside a GPU the other cores read ahead of it. A CPU encodes a hundred times as long as it reads: all cores do.
    with Readers(snakemake.threads - 1 if encoder.device.type == "cuda" else 0) as readers:
        slides = encode_slides(receipt[receipt["kind"] == "slide"], settings, encoder, directory, readers)
    write_table(slides, directory / "slides.parquet")
    print(slides.to_string())


if __name__ == "__main__":  # the processes that read import this file again
    main()

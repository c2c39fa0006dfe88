"""Link the features of a cohort's slides that TRIDENT or CLAM made.

input.cases, input.folder -> output.directory ({slide_id}.h5 or .pt, {slide_id}.png, slides.parquet)
"""

from pathlib import Path

from histofuse.io import read_table, start_log, write_table
from histofuse.slides.dropin import link_features

start_log(snakemake.log[0])

directory = Path(snakemake.output.directory)
slides = link_features(read_table(snakemake.input.cases), snakemake.input.folder, directory)
write_table(slides, directory / "slides.parquet")
print(slides.to_string())

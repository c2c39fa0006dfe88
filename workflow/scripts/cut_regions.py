"""Cut the regions of the slides of one receipt, normalised.

input.receipt, params.settings -> output.directory ({slide_id}.u8, .png and .thumbnail.jpg, regions/, slides.parquet,
regions.parquet)
"""

from pathlib import Path

from histofuse.io import read_table, start_log, write_table
from histofuse.slides.regions import cut_regions

start_log(snakemake.log[0])

receipt = read_table(snakemake.input.receipt, dtype={"case_id": str})
receipt = receipt[receipt["kind"] == "slide"]
directory = Path(snakemake.output.directory)
slides, regions = cut_regions(receipt, snakemake.params.settings, directory)
write_table(slides, directory / "slides.parquet")
write_table(regions, directory / "regions.parquet")
print(f"{len(receipt) - len(slides)} slides are not in the table of regions")
print(slides.to_string(), regions.to_string(), sep="\n\n")

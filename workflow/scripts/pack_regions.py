"""Pack the regions of a cohort's slides into one memory map; index, table of all slides, contact sheet.

input.directories, params.side_px, params.max_excluded -> output.regions, output.index, output.slides, output.sheet
"""

from pathlib import Path

from histofuse.io import atomic, start_log, write_table
from histofuse.slides.pack import gather_slides
from histofuse.slides.regions import pack_regions, previews
from histofuse.slides.sheet import contact_sheet

start_log(snakemake.log[0])

directories = list(snakemake.input.directories)
slides = gather_slides(directories, snakemake.params.max_excluded)
index = pack_regions(directories, slides, snakemake.params.side_px, Path(snakemake.output.regions))
write_table(index, snakemake.output.index)
with atomic(snakemake.output.sheet) as temporary:
    contact_sheet(previews(slides, index)).save(temporary)
write_table(slides.drop(columns="directory"), snakemake.output.slides)
print(slides.groupby(["status", "stain", "stain_reason"], dropna=False).size().to_string())

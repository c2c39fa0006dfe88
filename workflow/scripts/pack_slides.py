"""Pack the features of a cohort's slides into one memory map; index, table of all slides, contact sheet.

input.directories, params.max_excluded -> output.tiles, output.coords, output.index, output.slides, output.sheet
"""

from pathlib import Path

from histofuse.io import atomic, start_log, write_table
from histofuse.slides.pack import gather_slides, pack
from histofuse.slides.sheet import contact_sheet

start_log(snakemake.log[0])

slides = gather_slides(list(snakemake.input.directories), snakemake.params.max_excluded)
pack(slides, Path(snakemake.output.tiles), Path(snakemake.output.index), Path(snakemake.output.coords))
with atomic(snakemake.output.sheet) as temporary:
    contact_sheet(slides).save(temporary)
write_table(slides.drop(columns="directory"), snakemake.output.slides)
print(slides.groupby([c for c in ("status", "stain", "stain_reason") if c in slides], dropna=False).size().to_string())

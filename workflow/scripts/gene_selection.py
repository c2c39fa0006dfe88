"""Choose the highly variable genes of every split of a protocol."""

from histofuse.genomics.selection import read_counts, select_genes, select_panel
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
settings = snakemake.params.settings
flavour = settings.get("flavour", "variance")
log_tpm = read_table(snakemake.input.expression).set_index("case_id")
splits = read_table(snakemake.input.splits)
if "panel" in settings:
    selection = select_panel(log_tpm, splits, read_table(snakemake.input.panel))
else:
    selection = select_genes(
        log_tpm,
        splits,
        top=settings["top"],
        flavour=flavour,
        fitted_on=settings.get("fitted_on", "train"),
        counts=read_counts(snakemake.input.h5ad) if flavour == "seurat_v3" else None,
        sources=read_table(snakemake.input.cases, columns=["case_id", "source"]).set_index("case_id")["source"],
        per_source=settings.get("per_source"),
    )
print(selection.groupby("split")["selected"].agg(["sum", "size"]).rename(columns={"sum": "selected", "size": "genes"}))
write_table(selection, snakemake.output.selection)

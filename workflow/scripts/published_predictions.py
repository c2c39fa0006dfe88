"""Bring the released predictions of a published model into the shape of our own."""

from histofuse.evaluation.published_predictions import read_patient_level
from histofuse.io import start_log, write_table

start_log(snakemake.log[0])

settings = snakemake.params.settings
predictions = read_patient_level(
    snakemake.input.table, model=settings["model"], rows=settings["rows"], rna_subset=settings["rna_subset"]
)
write_table(predictions, snakemake.output.predictions)

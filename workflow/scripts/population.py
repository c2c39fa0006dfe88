"""Find the cases that take part in a task, and say why the others do not."""

from histofuse.cohort.cases import read_cases
from histofuse.cohort.labels import population
from histofuse.io import read_table, start_log, write_table

start_log(snakemake.log[0])
cases = read_cases(snakemake.input.cases)
available = {
    modality: set(read_table(path, columns=["case_id"])["case_id"])
    for modality, path in zip(snakemake.params.modalities, snakemake.input.modalities, strict=True)
}
frame, excluded = population(cases, snakemake.params.task, available, snakemake.params.every_class)
print(f"{len(frame)} of {len(cases)} cases take part")
print(excluded["reason"].value_counts().to_dict())
write_table(frame, snakemake.output.population)
write_table(excluded, snakemake.output.excluded)

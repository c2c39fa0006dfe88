"""Build the case table of an IvyGAP cohort; a recorded survival is taken as a death."""

import pandas as pd

from histofuse.cohort.cases import check_cases, with_defaults
from histofuse.cohort.ivygap import cases_from_ivygap
from histofuse.io import read_table, start_log, write_table
from histofuse.sources.ivygap import read_details
from histofuse.sources.manifest import read_manifest

start_log(snakemake.log[0])
receipts = [read_table(path, dtype=str, keep_default_na=False) for path in snakemake.input.receipts]
paths = pd.concat(receipts).set_index("kind")["path"]  # one file of each kind
clinical = paths.get("ivygap_tumors", paths.get("ivygap_sub_blocks"))  # both carry the clinical columns
expressed = set(read_table(snakemake.input.expression, columns=["case_id"])["case_id"])
manifest = read_manifest(snakemake.input.manifest)
frame, later = cases_from_ivygap(read_details(clinical), expressed, clinical, manifest)
print(f"{clinical} does not say who died: all {frame['time_days'].notna().sum()} recorded survivals count as deaths")
frame = with_defaults(frame, source=snakemake.params.settings["source"])
cases, excluded = check_cases(frame, snakemake.output.cases)
print(
    f"{len(cases)} cases, {len(excluded)} without follow-up; {len(later)} later tumours of the same patients set aside"
)
write_table(cases, snakemake.output.cases)
write_table(pd.concat([excluded.astype(object), later.astype(object)], ignore_index=True), snakemake.output.excluded)

"""Build the case table of a cohort and list the cases without a usable follow-up."""

import json
from pathlib import Path

import pandas as pd

from histofuse.cohort.cases import check_cases, with_defaults
from histofuse.cohort.clinical import cases_from_gdc
from histofuse.cohort.labels import who2021_diagnosis
from histofuse.io import read_table, start_log, write_table
from histofuse.sources.manifest import read_manifest
from histofuse.sources.published_tables import read_table_zip

start_log(snakemake.log[0])
settings = snakemake.params.settings
source = settings["source"]
receipts = [read_table(path, dtype=str, keep_default_na=False) for path in snakemake.input.receipts]
receipt = pd.concat(receipts, ignore_index=True)

if source == "published_tables":
    (path,) = receipt.loc[receipt["kind"] == "table", "path"]
    table = read_table_zip(path)
    print(table.report)
    # The table names slides but does not bring them.
    frame = with_defaults(table.cases, source=source, has_expression=True, has_alterations=True, has_slides=False)
else:

    def answers(kind):
        return [json.loads(Path(path).read_bytes()) for path in receipt.loc[receipt["kind"] == kind, "path"]]

    hits = [hit for answer in answers("clinical") for hit in answer["data"]["hits"]]
    molecular = [record for answer in answers("molecular") for record in answer]
    frame = cases_from_gdc(hits, molecular, read_manifest(snakemake.input.manifest))
    if molecular:
        calls = snakemake.input.cdkn2a  # none where there are no files of copy number
        cdkn2a = read_table(calls).set_index("case_id").get("CDKN2A_cnv") if calls else None
        frame["diagnosis"] = who2021_diagnosis(frame, cdkn2a, settings.get("cdkn2a_deletion", "homozygous"))
    else:
        frame["diagnosis"] = frame["primary_diagnosis"]
    frame = with_defaults(frame, source=source)

cases, excluded = check_cases(frame, snakemake.output.cases)
print(f"{len(cases)} cases, {int(cases['event'].sum())} deaths; {len(excluded)} without follow-up")
write_table(cases, snakemake.output.cases)
write_table(excluded, snakemake.output.excluded)

"""Fetch and verify one batch of a cohort's files; the receipt names where they lie."""

import json
from pathlib import Path

from histofuse.io import start_log, write_table
from histofuse.sources.fetch import fetch_batch
from histofuse.sources.manifest import read_manifest

start_log(snakemake.log[0])
# A simulated cohort is its own mirror.
mirror = snakemake.input.get("simulated") or snakemake.params.mirror
release = json.loads(Path(snakemake.input.availability).read_text())["release"]
manifest = read_manifest(snakemake.input.manifest)
receipt = fetch_batch(manifest, snakemake.params.batch, snakemake.params.directory, mirror, release)
write_table(receipt, snakemake.output.receipt)

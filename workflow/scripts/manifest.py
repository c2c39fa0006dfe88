"""List the files of a cohort: what to fetch, from where, by which job; or why it cannot be had."""

from histofuse.io import InputError, start_log, write_json, write_table
from histofuse.sources.fetch import Unavailable, check_available
from histofuse.sources.gdc import pinned_manifest, query_manifest
from histofuse.sources.ivygap import manifest as ivygap_manifest
from histofuse.sources.manifest import assign_batches, check_manifest, empty_manifest, read_manifest
from histofuse.sources.published_tables import manifest as published_manifest

start_log(snakemake.log[0])
settings = snakemake.params.settings
mirror = snakemake.params.mirror
reason, awaits, release = "", None, None

try:
    if settings["source"] == "simulated":
        frame = read_manifest(f"{snakemake.input.simulated}/manifest.tsv", batched=False)
    elif settings["source"] == "published_tables":
        frame = published_manifest(settings)
        check_available(frame, mirror)
    elif settings["source"] == "ivygap":
        frame = ivygap_manifest(settings, mirror)
        # Images are packed anew for every question, which takes longer than a question may wait.
        check_available(frame[frame["kind"] != "slide"], mirror)
    elif snakemake.input.pinned:  # a list of a GDC release; its first file stands for thousands
        frame = pinned_manifest(snakemake.input.pinned, settings)
        check_available(frame.head(1), mirror)
    else:
        frame, release = query_manifest(settings, mirror)
except Unavailable as error:
    if settings.get("required", True):
        raise InputError(f"the cohort is required but cannot be had: {error}") from error
    print(f"the cohort cannot be had: {error}")
    frame, reason, awaits = empty_manifest(), str(error), error.awaits and str(error.awaits)

check_manifest(frame, snakemake.output.manifest)
frame = assign_batches(frame, settings.get("files_per_job", {}))
print(frame.groupby("kind").agg(files=("file_id", "size"), jobs=("batch", "nunique")))
write_table(frame, snakemake.output.manifest)
availability = {"available": not reason, "reason": reason, "awaits": awaits, "release": release}
write_json(availability, snakemake.output.availability)

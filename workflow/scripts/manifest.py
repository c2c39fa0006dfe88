"""List the files of a cohort: what to fetch, from where, by which job; or why it cannot be had."""

from histofuse.io import InputError, start_log, write_json, write_table
from histofuse.sources.fetch import Unavailable, availability
from histofuse.sources.gdc import query_manifest
from histofuse.sources.ivygap import manifest as ivygap_manifest
from histofuse.sources.manifest import assign_batches, check_manifest, empty_manifest, read_manifest
from histofuse.sources.published_tables import manifest as published_manifest

start_log(snakemake.log[0])
settings = snakemake.params.settings
mirror = snakemake.params.mirror
release = None

try:
    if settings["source"] == "simulated":
        frame = read_manifest(f"{snakemake.input.simulated}/manifest.tsv", batched=False)
        available, reason = True, ""
    elif settings["source"] == "published_tables":
        frame = published_manifest(settings)
        available, reason = availability(frame, mirror)
    elif settings["source"] == "ivygap":
        frame = ivygap_manifest(settings, mirror)
        # Images are packed anew for every question, which takes longer than a question may wait.
        available, reason = availability(frame[frame["kind"] != "slide"], mirror)
    elif "manifest" in settings:  # a pinned list of a GDC release; its first file stands for thousands
        frame = read_manifest(settings["manifest"], batched=False)
        available, reason = availability(frame.head(1), mirror)
    else:
        frame, release = query_manifest(settings, mirror)
        available, reason = True, ""
except Unavailable as error:
    frame, available, reason = empty_manifest(), False, str(error)

if not available:
    if settings.get("required", True):
        raise InputError(f"the cohort is required but cannot be had: {reason}")
    print(f"the cohort cannot be had: {reason}")
    frame = empty_manifest()

check_manifest(frame, snakemake.output.manifest)
frame = assign_batches(frame, settings.get("files_per_job", {}))
print(frame.groupby("kind").agg(files=("file_id", "size"), jobs=("batch", "nunique")))
write_table(frame, snakemake.output.manifest)
write_json({"available": available, "reason": reason, "release": release}, snakemake.output.availability)

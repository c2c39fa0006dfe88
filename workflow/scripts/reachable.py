"""The best C-index that a simulated cohort allows, as its simulator worked it out from the truth."""

import json
from pathlib import Path

from histofuse.io import start_log, write_json

start_log(snakemake.log[0])
reachable = json.loads(Path(snakemake.input.simulated, "reachable.json").read_text())
write_json(reachable, snakemake.output.reachable)

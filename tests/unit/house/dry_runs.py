"""What Snakemake says to a configuration, without running a job."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def dry_run(config, folder, *targets):
    """The finished dry run of a configuration, which is written to a folder, for some files or for everything."""
    (folder / "given.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "--cores", "1", *targets]
    return subprocess.run(
        [*command, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--configfile", "given.yaml"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )

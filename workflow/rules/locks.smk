"""Frees the working folder from the lock of a run that was killed on this machine.

After `kill -9` or a power cut Snakemake's lock stays, and Snakemake cannot tell whether its owner still lives. Every
run therefore leaves its process here while it lives; a lock whose every owner was of this machine and is gone is
stale. With an owner on another machine, or none on record, the lock is left alone (`snakemake --unlock` removes it).
"""

import atexit
import os
import platform
import sys
from pathlib import Path

import psutil

RUNNING = Path(".snakemake", "running")
LOCKS = Path(".snakemake", "locks")
PROC = Path(os.sep, "proc")  # there on Linux


def started(pid):
    """What tells a process from others that had or will have its number, as text; none for one that is not there.

    On Linux which boot, and the ticks from then to its start: the time of day that psutil makes of them moves when the
    clock is set. On macOS the time of day itself, which the kernel notes at the start and keeps.
    """
    boot = PROC / "sys/kernel/random/boot_id"
    try:
        if not boot.is_file():
            return repr(psutil.Process(pid).create_time())
        # The name in parentheses may hold spaces; field 22 is the 20th after it.
        ticks = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot.read_text().strip()} {ticks}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def gone(record):
    """Whether the process on record was of this machine and lives no more (its number may have been given anew)."""
    host, _, pid = record.name.rpartition("-")
    return host == platform.node() and started(int(pid)) != record.read_text()


def free_stale_locks():
    """Remove the locks, and the records, of runs that are gone; then record this one for as long as it lives."""
    records = list(RUNNING.glob("*-*"))
    if records and all(gone(record) for record in records):
        for lock in LOCKS.glob("*.lock"):
            print(f"Removing {lock}: the run that left it was killed.", file=sys.stderr)
            lock.unlink()
        for record in records:
            record.unlink()
    own = RUNNING / f"{platform.node()}-{os.getpid()}"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(started(os.getpid()))
    atexit.register(own.unlink, missing_ok=True)


if workflow.is_main_process:
    free_stale_locks()

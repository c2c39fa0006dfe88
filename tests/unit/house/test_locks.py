"""A killed run's lock is removed, a live run's never: also not when the clock was set or its number given anew."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

RULES = Path(__file__).parents[3] / "workflow/rules/locks.smk"


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """The functions of locks.smk, with this process on record in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    namespace = {"workflow": SimpleNamespace(is_main_process=False)}
    exec(compile(RULES.read_text(), RULES, "exec"), namespace)
    for name in ("LOCKS", "RUNNING"):
        namespace[name].mkdir(parents=True)
    return namespace


def record(locks, pid, text):
    path = locks["RUNNING"] / f"{platform.node()}-{pid}"
    path.write_text(text)
    return path


def test_a_live_run_is_known_also_after_the_clock_was_set(locks, monkeypatch):
    own = record(locks, os.getpid(), locks["started"](os.getpid()))
    assert not locks["gone"](own)
    if Path("/proc/stat").exists():  # there psutil adds the time of the boot, which is as wrong as the clock
        before = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: before(process) + 3600.0)
    assert not locks["gone"](own)


def test_a_run_that_ended_is_gone_also_if_its_number_was_given_anew(locks):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = locks["started"](process.pid)
        assert not locks["gone"](record(locks, process.pid, started))
    assert locks["started"](process.pid) is None
    assert locks["gone"](record(locks, process.pid, started))
    assert locks["gone"](record(locks, os.getpid(), started))


def test_where_there_is_no_proc_psutil_tells(locks, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert locks["started"](os.getpid()) == repr(psutil.Process().create_time())
    assert locks["started"](2**22 + 1) is None


def test_locks_of_live_runs_stay(locks):
    lock = locks["LOCKS"] / "0.input.lock"
    lock.touch()
    live = record(locks, os.getpid(), locks["started"](os.getpid()))
    locks["free_stale_locks"]()
    assert lock.exists()
    live.write_text("another start")
    locks["free_stale_locks"]()
    assert not lock.exists()

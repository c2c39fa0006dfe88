"""Files appear whole or not at all; tables, logs and digests."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from histofuse.io import InputError, atomic, digest, hide_gpus, progress, read_table, sha256, write_json, write_table

LIBRARY = Path(__file__).parents[2] / "workflow" / "scripts"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    write_table(pd.DataFrame({"a": [1]}), path)

    def fail_half_way():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_half_way()
    assert path.read_text() == "a\n1\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "[1].pt"
    left_over, other = tmp_path / ".[1].pt.x81.pt", tmp_path / ".another.pt.x81.pt"
    for file in (left_over, other):
        file.write_text("half")
    write_json({}, path)
    assert not left_over.exists()
    assert other.exists()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_tables_come_back_as_written(tmp_path, suffix):
    frame = pd.DataFrame({"case_id": ["A", "B"], "x": [0.1, None]})
    write_table(frame, tmp_path / f"t{suffix}")
    pd.testing.assert_frame_equal(read_table(tmp_path / f"t{suffix}"), frame)


def test_unreadable_tables_are_named(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_text("no parquet")
    with pytest.raises(InputError, match=r"bad\.parquet: cannot be read as a table"):
        read_table(bad)
    with pytest.raises(InputError, match=r"absent\.tsv: cannot be read"):
        read_table(tmp_path / "absent.tsv")
    with pytest.raises(ValueError, match="written as"):
        write_table(pd.DataFrame(), tmp_path / "t.xlsx")


def test_digests(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert sha256(file) == hashlib.sha256(b"abc").hexdigest()
    assert digest(file, "md5") == hashlib.md5(b"abc").hexdigest()


def test_a_log_holds_children_and_the_crash_and_the_terminal_gets_the_last_line(tmp_path):
    log = tmp_path / "job.log"
    script = (
        "import os, sys; from histofuse.io import start_log; start_log(sys.argv[1]); print('python');"
        "sys.stdout.flush(); os.system('echo child'); raise ValueError('what went wrong')"
    )
    environment = os.environ | {"PYTHONPATH": str(LIBRARY)}
    done = subprocess.run([sys.executable, "-c", script, log], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "ValueError: what went wrong"
    text = log.read_text()
    assert text.index("python") < text.index("child") < text.index("Traceback")


def test_a_job_that_asked_for_no_gpu_sees_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    hide_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"
    hide_gpus(0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_progress_yields_everything():
    assert list(progress(range(3), "three")) == [0, 1, 2]

"""`make setup` makes .venv once, makes it anew when something changed, and says when there is no Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Stands for an interpreter: `-m venv` and `-m pip` only leave a trace, everything else is done by the real one.
FAKE = f"""#!/bin/sh
case "$1 $2" in
"-m venv")
    echo venv >>calls
    rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip")
    echo pip "$@" >>calls
    if [ -f offline ]; then exit 1; fi ;;
*) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with what `make setup` needs, and a PATH where python3.11 fails and python3.12 works."""
    for name in ("Makefile", "tools/setup.sh", "requirements.lock"):
        target = tmp_path / "checkout of histofuse" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("make", "sh", "sed", "grep", "cat", "rm", "mkdir", "cp"):
        (binaries / name).symlink_to(shutil.which(name))
    executable(binaries / "python3.11", "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    executable(binaries / "python3.12", FAKE)
    return tmp_path / "checkout of histofuse"


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def setup(checkout, *arguments):
    """The finished process and what venv and pip were asked to do."""
    calls = checkout / "calls"
    calls.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "PYTHON"}
    environment["PATH"] = str(checkout.parent / "bin")
    done = subprocess.run(
        ["make", "setup", *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_installs_torch_then_the_lock(checkout):
    done, calls = setup(checkout)
    assert done.returncode == 0, done.stderr
    assert calls[0] == "venv"
    assert calls[1].endswith("install torch==2.13.0")
    assert calls[2].endswith("install --no-deps --require-hashes -r requirements.lock")
    assert len(calls) == 3
    assert "Installing" in done.stdout


def test_a_second_time_changes_nothing(checkout):
    setup(checkout)
    stamp = checkout / ".venv" / "histofuse.stamp"
    before = stamp.stat().st_mtime_ns
    done, calls = setup(checkout)
    assert (done.returncode, calls, done.stdout) == (0, [], "")
    assert stamp.stat().st_mtime_ns == before


def damage_lock(checkout):
    with (checkout / "requirements.lock").open("a") as file:
        file.write("# one more line\n")


def damage_interpreter(checkout):
    (checkout / ".venv" / "bin" / "python").unlink()


def damage_stamp(checkout):
    (checkout / ".venv" / "histofuse.stamp").unlink()


def change_torch(checkout):
    makefile = checkout / "Makefile"
    makefile.write_text(makefile.read_text().replace("TORCH := ", "TORCH := 1"))


@pytest.mark.parametrize("damage", [damage_lock, damage_interpreter, damage_stamp, change_torch])
def test_makes_it_anew(checkout, damage):
    setup(checkout)
    damage(checkout)
    done, calls = setup(checkout)
    assert done.returncode == 0
    assert calls[0] == "venv"
    assert len(calls) == 3
    assert setup(checkout)[1] == []


def test_an_install_that_fails_leaves_no_stamp(checkout):
    (checkout / "offline").touch()
    assert setup(checkout)[0].returncode != 0
    assert not (checkout / ".venv" / "histofuse.stamp").exists()
    (checkout / "offline").unlink()
    done, calls = setup(checkout)
    assert (done.returncode, calls[0]) == (0, "venv")


def test_says_when_there_is_no_python(checkout):
    (checkout.parent / "bin" / "python3.12").unlink()
    done, calls = setup(checkout)
    assert done.returncode != 0
    assert calls == []
    assert "Tried: python3.11 python3.12 python3" in done.stderr
    assert "Python 3.11 or 3.12" in done.stderr


def test_a_named_interpreter_is_the_only_one_tried(checkout):
    named = checkout.parent / "my python"
    executable(named, FAKE.replace("exec", "exit 1 #"))
    done, calls = setup(checkout, f"PYTHON={named}")
    assert done.returncode != 0
    assert (calls, str(named) in done.stderr) == ([], True)

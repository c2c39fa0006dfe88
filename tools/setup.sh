#!/bin/sh
# Make .venv from requirements.lock and torch $TORCH, unless it is already there and whole. Called by `make setup`.
#
# .venv/histofuse.stamp is written last. It holds what .venv was made from and where, so that a changed lock, an
# install that was cut short or a folder that was moved all lead to the same thing: .venv is made anew.
set -eu

stamp() { # of an interpreter
    "$1" -c 'import hashlib, sys
lock = hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest()
print(lock, sys.argv[1], "%d.%d" % sys.version_info[:2], sys.argv[2])' "$TORCH" "$(pwd)"
}

suits() { # a pyenv shim can be on the PATH and still fail, so each candidate is run
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

made_from() { # whether .venv is what this interpreter would make
    [ -f .venv/histofuse.stamp ] && [ "$(stamp "$1" 2>/dev/null)" = "$(cat .venv/histofuse.stamp)" ]
}

if made_from .venv/bin/python && made_from "${PYTHON:-.venv/bin/python}"; then
    exit 0
fi

if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.11 python3.12 python3; fi
chosen=
for candidate in "$@"; do
    if suits "$candidate"; then
        chosen=$candidate
        break
    fi
done
if [ -z "$chosen" ]; then
    echo "make setup: no Python that can be used. Tried: $*." >&2
    echo "Needed: Python 3.11 or 3.12 that runs and has the modules venv and ensurepip (on Debian: python3-venv)." >&2
    echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
fi

# pip's progress bars belong on a terminal; elsewhere the lines printed here are enough.
if [ -t 1 ]; then quiet=; else quiet=--quiet; fi
pip() { .venv/bin/python -m pip --disable-pip-version-check $quiet "$@"; }

echo "Making .venv with $("$chosen" --version)"
"$chosen" -m venv --clear .venv
echo "Installing torch $TORCH"
pip install "torch==$TORCH"
echo "Installing the $(grep -c == requirements.lock) packages of requirements.lock"
pip install --no-deps --require-hashes -r requirements.lock
stamp .venv/bin/python >.venv/histofuse.stamp
echo ".venv is ready"

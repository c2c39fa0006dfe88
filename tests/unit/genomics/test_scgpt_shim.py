"""The package's model is loaded alone and in silence."""

import subprocess
import sys
from pathlib import Path

import pytest

from histofuse.genomics.scgpt import shim

SCRIPTS = Path(shim.__file__).parents[3]
IMPORT = """
import sys
from histofuse.genomics.scgpt.shim import transformer_model
import torch, tqdm
before = set(sys.modules)
TransformerModel = transformer_model()
assert TransformerModel is transformer_model()
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print(TransformerModel.__name__, sys.modules[TransformerModel.__module__].__file__)
"""


def test_nothing_else_is_imported_and_nothing_is_printed():
    command = [sys.executable, "-W", "default", "-c", IMPORT]
    done = subprocess.run(command, env={"PYTHONPATH": str(SCRIPTS)}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    modules, file = done.stdout.splitlines()
    assert modules == str([shim.PRIVATE_NAME])
    assert file.startswith("TransformerModel ")
    assert file.endswith("/scgpt/model/model.py")


def test_absent_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps scgpt"):
        shim.transformer_model.__wrapped__()

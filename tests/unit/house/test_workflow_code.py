"""The digest by which a job runs again follows what its code does, and nothing else of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[3]
RULES = ROOT / "workflow" / "rules" / "common_code.smk"
SCRIPT = '''"""Say it."""
from histofuse.words import word


class Speaker:
    """Says words."""

    def say(self):
        """Say one."""
        return word("said")
'''
MODULE = '''"""Words."""


def word(name):
    """A word."""
    return name
'''


@pytest.fixture
def workflow(tmp_path):
    """Functions of the rules over scripts of our own in `tmp_path`/scripts, with a configuration beside them."""
    (tmp_path / "scripts" / "histofuse").mkdir(parents=True)
    (tmp_path / "scripts" / "say.py").write_text(SCRIPT)
    (tmp_path / "scripts" / "histofuse" / "words.py").write_text(MODULE)

    def read():
        functions = {"SCRIPTS": tmp_path / "scripts", "CONFIG_FOLDERS": [tmp_path], "MODELS": {}}
        exec(RULES.read_text(), functions)
        return SimpleNamespace(**functions)

    return read


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("say.py", '"""Say it."""', '"""Say it aloud."""', False),
        ("say.py", '"""Says words."""', "", False),
        ("say.py", '"""Say one."""', '"""Say one word, and no more."""  # why', False),
        ("histofuse/words.py", '"""A word."""', '"""A word, as it is."""', False),
        ("histofuse/words.py", "return name", "return name.upper()", True),
        ("say.py", '"said"', '"sung"', True),
    ],
)
def test_a_docstring_runs_nothing_again_and_code_does(workflow, tmp_path, file, old, new, again):
    before = workflow().code("say.py")
    path = tmp_path / "scripts" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert (workflow().code("say.py") != before) == again


def test_a_text_that_is_no_docstring_counts(workflow, tmp_path):
    path = tmp_path / "scripts" / "say.py"
    path.write_text(SCRIPT.replace('return word("said")', 'word("said")\n        "no docstring, as it comes later"'))
    before = workflow().code("say.py")
    path.write_text(path.read_text().replace("as it comes later", "for it is not first"))
    assert workflow().code("say.py") != before


def test_a_relative_import_in_a_users_file_is_passed_over(workflow, tmp_path):
    file = tmp_path / "my_model.py"
    file.write_text(
        "from . import helper\nfrom .layers import Layer\n\n\nclass Mine(Layer):\n    def vectors(self): ...\n"
    )
    functions = workflow()
    assert functions.code("say.py", file) != functions.code("say.py")
    assert functions.offers(file, "Mine", "vectors")
    assert not functions.offers(file, "Mine", "branches")

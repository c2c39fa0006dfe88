"""The vocabulary of a checkpoint: read whole, and refused when it is not one."""

import json

import pytest

from histofuse.genomics.scgpt.vocabulary import Vocabulary
from histofuse.io import InputError


def written(folder, content):
    path = folder / "vocab.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_special_tokens_are_appended_in_order(tmp_path):
    vocabulary = Vocabulary.from_file(written(tmp_path, {"TP53": 1, "EGFR": 0}))
    assert vocabulary.index == {"TP53": 1, "EGFR": 0, "<pad>": 2, "<cls>": 3, "<eoc>": 4}


def test_special_tokens_that_are_there_stay(tmp_path):
    vocabulary = Vocabulary.from_file(written(tmp_path, {"<cls>": 0, "TP53": 1, "<pad>": 2}))
    assert vocabulary.index == {"<cls>": 0, "TP53": 1, "<pad>": 2, "<eoc>": 3}
    assert len(vocabulary) == 4


def test_the_real_size(tmp_path):
    vocabulary = Vocabulary.from_file(written(tmp_path, {f"ENSG{i:011d}": i for i in range(60_694)}))
    assert len(vocabulary) == 60_697
    assert vocabulary["<eoc>"] == 60_696


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as a vocabulary"),
        ("[0, 1]", "a JSON object of tokens"),
        ("{}", "a JSON object of tokens"),
        ({"TP53": "0"}, "'TP53': '0' is no index"),
        ({"TP53": True}, "'TP53': True is no index"),
        ({"TP53": 0.0}, "'TP53': 0.0 is no index"),
        ({"TP53": {"EGFR": 0}}, "is no index"),
        ({"TP53": 0, "EGFR": 2}, "index 1 is missing; 2 tokens must have the indices 0 to 1"),
        ({"TP53": 1, "EGFR": 2}, "index 0 is missing"),
        ({"TP53": -1, "EGFR": 0}, "index 1 is missing"),
        ({"TP53": 0, "EGFR": 1, "MYC": 1}, "index 1 is given to 'EGFR' and 'MYC'"),
        ('{"TP53": 0, "EGFR": 1, "TP53": 2}', "token 'TP53' is listed twice"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=says) as error:
        Vocabulary.from_file(written(tmp_path, content))
    assert "vocab.json" in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"vocab\.json: cannot be read"):
        Vocabulary.from_file(tmp_path / "vocab.json")

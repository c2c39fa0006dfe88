"""The gene vocabulary of an scGPT checkpoint: `vocab.json`, token to index."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from histofuse.io import InputError

PAD, CLASS, END = SPECIAL = "<pad>", "<cls>", "<eoc>"


@dataclass(frozen=True)
class Vocabulary:
    """`index`: token to its row of the embedding matrix; indices are consecutive from 0."""

    index: dict[str, int]

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """Read `vocab.json`; `<pad>`, `<cls>` and `<eoc>` are appended in that order where they are not in it.

        Raises InputError for what is no JSON object of tokens and whole numbers, and for indices that are not
        consecutive from 0, naming what is missing or taken twice.
        """
        path = Path(path)
        try:
            pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a vocabulary ({error})") from error
        if not isinstance(pairs, _Pairs) or not pairs:
            raise InputError(f"{path}: a vocabulary is a JSON object of tokens and their indices")
        wrong = next((f"{token!r}: {value!r}" for token, value in pairs if type(value) is not int), None)
        if wrong:
            raise InputError(f"{path}: {wrong} is no index, which is a whole number")
        index = dict(pairs)
        if len(index) < len(pairs):
            raise InputError(f"{path}: token {_twice(token for token, _ in pairs)!r} is listed twice")
        _check_consecutive(index, path)
        for token in SPECIAL:
            index.setdefault(token, len(index))
        return cls(index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, token: str) -> int:
        return self.index[token]


class _Pairs(list):
    """The items of a JSON object, with a key that is there twice still there twice."""


def _check_consecutive(index: dict[str, int], path: Path) -> None:
    values = set(index.values())
    if len(values) < len(index):
        value = _twice(index.values())
        tokens = [token for token, other in index.items() if other == value]
        raise InputError(f"{path}: index {value} is given to {' and '.join(map(repr, tokens))}; one token, one index")
    missing = next((value for value in range(len(index)) if value not in values), None)
    if missing is not None:
        raise InputError(
            f"{path}: index {missing} is missing; {len(index)} tokens must have the indices 0 to {len(index) - 1}"
        )


def _twice(values: Iterable) -> object:
    return Counter(values).most_common(1)[0][0]

"""Embeddings are kept by content: known profiles are not computed again, damaged files are."""

import numpy as np
import pytest
from scgpt_examples import profiles

from histofuse.genomics.scgpt.cache import EmbeddingCache, cache_digest
from histofuse.genomics.scgpt.tokens import tokenise
from histofuse.io import atomic


class Computer:
    """Stands in for the encoder: a vector of what it reads, and a record of how many profiles it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, tokens):
        self.asked.append(len(tokens))
        parts = map(tokens.profile, range(len(tokens)))
        return np.array([[len(ids), ids.sum(), bins.sum()] for ids, bins in parts], dtype=np.float32)


@pytest.fixture
def tokens():
    return tokenise(profiles([10, 20, 30, 40, 50]), np.arange(300))


def test_new_profiles_are_computed_alone(tmp_path, tokens):
    compute = Computer()
    expected = compute(tokens)
    first = EmbeddingCache(tmp_path, "a", "mine").embed(tokens.select([3, 1]), compute)
    np.testing.assert_array_equal(first, expected[[3, 1]])
    again = EmbeddingCache(tmp_path, "a", "mine")
    np.testing.assert_array_equal(again.embed(tokens, compute), expected)
    np.testing.assert_array_equal(again.embed(tokens, compute), expected)
    assert compute.asked == [5, 2, 3]
    assert len(EmbeddingCache(tmp_path, "a", "mine")) == 5
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npz")] == ["a/mine.npz"]


def test_equal_profiles_are_computed_once(tmp_path, tokens):
    compute = Computer()
    out = EmbeddingCache(tmp_path, "a", "mine").embed(tokens.select([2, 2, 0, 2]), compute)
    assert compute.asked == [2]
    np.testing.assert_array_equal(out[:, 0], [30, 30, 10, 30])


def test_another_digest_is_another_cache(tmp_path, tokens):
    compute = Computer()
    for digest in ("a", "b"):
        EmbeddingCache(tmp_path, digest, "mine").embed(tokens, compute)
    assert compute.asked == [5, 5]


def test_what_another_job_wrote_is_found(tmp_path, tokens):
    compute = Computer()
    EmbeddingCache(tmp_path, "a", "theirs").embed(tokens.select([0, 1]), compute)
    EmbeddingCache(tmp_path, "a", "mine").embed(tokens, compute)
    assert compute.asked == [2, 3]


def test_two_jobs_at_the_same_time_keep_out_of_each_others_way(tmp_path, tokens):
    """The second starts and ends while the first computes, and then again while the first writes."""
    compute = Computer()
    expected = compute(tokens)
    theirs = EmbeddingCache(tmp_path, "a", "theirs")

    def slowly(missing):
        theirs.embed(tokens.select([0, 1]), compute)
        return compute(missing)

    mine = EmbeddingCache(tmp_path, "a", "mine")
    np.testing.assert_array_equal(mine.embed(tokens.select([1, 2]), slowly), expected[[1, 2]])
    with atomic(mine.path) as temporary:
        theirs.embed(tokens.select([3]), compute)
        assert temporary.exists()
        temporary.write_bytes(mine.path.read_bytes())
    assert len(EmbeddingCache(tmp_path, "a", "mine")) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "pickle", "no rows", "not finite"])
def test_damaged_file_is_named_and_made_again(tmp_path, tokens, capsys, damage):
    compute = Computer()
    expected = EmbeddingCache(tmp_path, "a", "mine").embed(tokens, compute)
    path = tmp_path / "a" / "mine.npz"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = content.index(expected.tobytes()) + 5
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "pickle":
        np.savez(path, digests=np.array(["x", None], dtype=object), embeddings=expected[:2])
    elif damage == "no rows":
        np.savez(path, digests=np.array(tokens.digests()), embeddings=expected[:2])
    else:
        np.savez(path, digests=np.array(tokens.digests()), embeddings=np.full_like(expected, np.nan))
    capsys.readouterr()
    np.testing.assert_array_equal(EmbeddingCache(tmp_path, "a", "mine").embed(tokens, compute), expected)
    assert f"{path}: damaged cache of embeddings, passed over" in capsys.readouterr().out
    assert compute.asked == [5, 5]
    assert len(EmbeddingCache(tmp_path, "a", "mine")) == 5


def test_digest_depends_on_every_part():
    parts = {"checkpoint": "c", "precision": "float32", "settings": {"ties": "middle"}, "code": "k"}
    assert cache_digest(**parts) == cache_digest(**dict(reversed(parts.items())))
    changed = [parts | {key: "other"} for key in parts]
    assert len({cache_digest(**one) for one in [parts, *changed]}) == 5

"""Tokens of a profile: the package's bins where values differ, ours where they do not; nobody else's business."""

import numpy as np
import pytest

from histofuse.genomics.scgpt.tokens import MAX_GENES, average_subsets, subset_tokens, tokenise
from histofuse.io import InputError

IDS = np.arange(400)


def counts(profiles=6, genes=400, seed=0):
    """Counts as of single cells: many zeros, many ties."""
    rng = np.random.default_rng(seed)
    return rng.negative_binomial(0.8, 0.2, size=(profiles, genes)).astype(np.float32)


def packages_bins(values):
    """First and last bin that scgpt's rule allows for non-zero values: quantile edges, digits on both sides."""
    edges = np.quantile(values, np.linspace(0, 1, 50))
    last, before = np.digitize(values, edges), np.digitize(values, edges, right=True)
    return np.minimum(before + 1, last), last


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("ids", "bins", "offsets"))


@pytest.mark.parametrize("genes", [2, 5, 48, 51, 77, 256, 1000, MAX_GENES])
def test_bins_of_different_values_are_the_packages(genes):
    values = np.random.default_rng(genes).permutation(genes).astype(np.float32)[None] + 0.5
    first, last = packages_bins(values[0])
    assert np.array_equal(first, last)
    assert np.array_equal(tokenise(values, np.arange(genes)).bins, (first + last) // 2)


@pytest.mark.parametrize("ties", ["middle", "seeded"])
def test_bins_of_ties_are_among_those_the_package_draws_from(ties):
    values = counts(30, 399)
    tokens = tokenise(values, IDS[:399], ties=ties)
    for i, row in enumerate(values):
        first, last = packages_bins(row[row > 0])
        bins = tokens.profile(i)[1]
        assert ((bins >= first) & (bins <= last)).all()
        if ties == "middle":
            assert np.array_equal(bins, np.ceil(0.5 * ((first - 1) + last)))  # the package's formula at 0.5
        else:
            span = last - first > 5
            assert len(np.unique(bins[span] - first[span])) > 5


def test_edges_that_are_values_are_counted_exactly():
    """50 values, 49 intervals: every edge is a value. 1 to 50, one bin each, where rounding moves the package's."""
    assert tokenise(np.arange(1, 51, dtype=np.float32)[None] * 0.1, IDS[:50]).bins.tolist() == list(range(1, 51))


@pytest.mark.parametrize(("values", "bins"), [([7], [25]), ([3, 3, 3], [25, 25, 25]), ([1, 2], [1, 50])])
def test_small_profiles(values, bins):
    assert tokenise(np.array([values]), IDS[: len(values)]).bins.tolist() == bins


def test_only_expressed_genes_of_the_vocabulary_are_read_in_the_order_of_their_tokens():
    tokens = tokenise(np.array([[5, 0, 9, 1, 2], [0, 3, 0, 0, 1.0]]), np.array([8, 2, -1, 4, 6]))
    assert tokens.ids.tolist() == [4, 6, 8, 2, 6]
    assert tokens.bins.tolist() == [1, 25, 50, 50, 1]
    assert tokens.offsets.tolist() == [0, 3, 5]
    assert (tokens.ids.dtype, tokens.bins.dtype, tokens.offsets.dtype) == (np.int32, np.uint8, np.int64)
    assert len(tokens) == 2
    assert tokens.lengths.tolist() == [3, 2]


@pytest.mark.parametrize("ties", ["middle", "seeded"])
@pytest.mark.parametrize("transform", [np.log1p, np.sqrt, lambda x: x * 1e4 / x.sum(1, keepdims=True), lambda x: x**3])
def test_increasing_transforms_change_nothing(ties, transform):
    values = counts().astype(np.float64)
    assert same(tokenise(values, IDS, ties=ties), tokenise(transform(values), IDS, ties=ties))


@pytest.mark.parametrize("ties", ["middle", "seeded"])
def test_company_and_order_change_nothing(monkeypatch, ties):
    values = counts(20)
    tokens = tokenise(values, IDS, ties=ties)
    rows = np.random.default_rng(1).permutation(20)[:9]
    assert same(tokenise(values[rows], IDS, ties=ties), tokens.select(rows))
    columns = np.random.default_rng(2).permutation(400)
    assert same(tokenise(values[:, columns], IDS[columns], ties=ties), tokens)
    monkeypatch.setattr("histofuse.genomics.scgpt.tokens.CHUNK", 1000)
    assert same(tokenise(values, IDS, ties=ties), tokens)


def test_seed_draws_ties_and_nothing_else():
    values = counts()
    one, other = (tokenise(values, IDS, ties="seeded", seed=seed) for seed in (0, 1))
    assert same(tokenise(values, IDS, ties="seeded", seed=0), one)
    assert np.array_equal(one.ids, other.ids)
    assert not np.array_equal(one.bins, other.bins)
    distinct = np.random.default_rng(0).permutation(400)[None] + 1.0
    assert same(tokenise(distinct, IDS, ties="seeded", seed=0), tokenise(distinct, IDS, ties="seeded", seed=1))


def test_seeded_draws_are_uniform():
    values = np.ones((200, 400))
    values[np.arange(200), np.arange(200)] = 0  # equal profiles would be drawn alike
    bins = tokenise(values, IDS, ties="seeded").bins
    share = np.bincount(bins, minlength=51)[1:] / len(bins)
    assert abs(share - 1 / 50).max() < 0.002


def test_signed_values_are_ranked_with_the_others():
    values = np.array([[-2.0, 0, 0.5, -0.1, 3, 1]])
    assert tokenise(values, IDS[:6], signed=True).bins.tolist() == [1, 25, 13, 50, 37]
    assert np.array_equal(packages_bins(values[values != 0])[1], [1, 25, 13, 50, 37])


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda v: v.__setitem__((1, 3), -1), {}, "profile B: negative expression"),
        (lambda v: v.__setitem__((1, 3), np.nan), {}, "profile B: an expression value is not a finite number"),
        (lambda v: v.__setitem__((1, 3), np.inf), {"signed": True}, "profile B: .* not a finite number"),
        (lambda v: v.__setitem__(1, 0), {}, "profile B: none of the genes that are read is expressed"),
        (lambda v: v.__setitem__((1, slice(None)), 1), {"max_genes": 399}, "profile B: 400 expressed genes.* 399"),
        (lambda v: None, {"ties": "left"}, "'left' is not one of middle, seeded"),
    ],
)
def test_values_that_cannot_be_read(change, options, says):
    values = counts(2)
    change(values)
    with pytest.raises(InputError, match=says):
        tokenise(values, IDS, names=["A", "B"], **options)


def test_one_gene_in_two_columns():
    with pytest.raises(InputError, match="columns 0 and 2 are the same gene"):
        tokenise(np.ones((1, 4)), np.array([5, 3, 5, -1]))


def test_no_gene_of_the_vocabulary():
    with pytest.raises(InputError, match="profile 0: none of the genes"):
        tokenise(np.ones((1, 2)), np.array([-1, -1]))


def test_ids_that_are_not_the_columns():
    with pytest.raises(ValueError, match=r"shape \(6, 400\) need one token id for each column"):
        tokenise(counts(), IDS[:-1])


def test_no_profiles():
    tokens = tokenise(np.empty((0, 400)), IDS)
    assert (len(tokens), len(tokens.ids), tokens.digests()) == (0, 0, [])


def test_digests_are_of_the_content():
    values = counts(4)
    digests = tokenise(values, IDS).digests()
    assert len(set(digests)) == 4
    assert tokenise(values[[2]] * 3, IDS).digests() == [digests[2]]


def test_subsets_are_the_cases_own():
    values = counts(3)
    tokens = tokenise(values, IDS, max_genes=None)
    drawn, owners = subset_tokens(tokens, ["a", "b", "c"], subsets=4, size=100)
    assert owners.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert drawn.lengths.tolist() == [100] * 12
    bins = dict(zip(*tokens.profile(1)))
    for i in range(4, 8):
        ids, own = drawn.profile(i)
        assert (np.diff(ids) > 0).all()
        assert [bins[token] for token in ids] == own.tolist()  # binned among all genes of the profile
    assert len(set(drawn.digests())) == 12

    alone, _ = subset_tokens(tokens.select([1]), ["b"], subsets=4, size=100)
    assert same(alone, drawn.select(range(4, 8)))
    fewer, _ = subset_tokens(tokens.select([1]), ["b"], subsets=2, size=100)
    assert same(fewer, drawn.select(range(4, 6)))
    other, _ = subset_tokens(tokens.select([1]), ["b"], subsets=4, size=100, seed=1)
    assert not same(other, alone)


def test_small_profiles_are_taken_whole_and_once():
    values = counts(2)
    values[0, 50:] = 0
    tokens = tokenise(values, IDS)
    drawn, owners = subset_tokens(tokens, ["a", "b"], subsets=3, size=100)
    assert owners.tolist() == [0, 1, 1, 1]
    assert same(drawn.select([0]), tokens.select([0]))


def test_subsets_are_averaged_to_length_one():
    embeddings = np.array([[1, 0], [0.6, 0.8], [0, 1], [1, 0]], dtype=np.float32)
    out = average_subsets(embeddings, np.array([0, 1, 1, 1]))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[1, 0], np.array([1.6, 1.8]) / np.hypot(1.6, 1.8)], atol=1e-7)


def test_subsets_below_one():
    with pytest.raises(InputError, match="subsets: 0"):
        subset_tokens(tokenise(counts(1), IDS), ["a"], subsets=0)

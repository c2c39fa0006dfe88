"""Expression profiles as scGPT reads them: the tokens of the expressed genes, each with the bin of its value.

A value's bin says where it stands among the profile's own non-zero values: 50 quantile edges divide these into 50
bins. Only ranks enter, so any strictly increasing transform of a profile (counts, CPM, log(1+CPM)) gives the same
tokens; what changes ranks within a profile (division by gene length) does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histofuse.io import InputError

N_EDGES = 50  # scGPT's 51 bins: bin 0 is for zeros, which are not read, and 1 to 50 for the rest
MAX_GENES = 1199  # scGPT was trained on 1,200 tokens at most, the class token among them
TIES = ("middle", "seeded")
CHUNK = 2_000_000  # values binned at a time; ten arrays of this size are held


@dataclass(frozen=True)
class Tokens:
    """Profiles in compressed rows: profile i has `ids[offsets[i]:offsets[i + 1]]` and the `bins` beside them.

    `ids`: int32 indices of the vocabulary, ascending within a profile. `bins`: uint8, 1 to 50. `offsets`: int64.
    The class token is not among them; the encoder puts it first.
    """

    ids: np.ndarray
    bins: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Genes of every profile."""
        return np.diff(self.offsets)

    def profile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and bins of one profile."""
        part = slice(self.offsets[i], self.offsets[i + 1])
        return self.ids[part], self.bins[part]

    def select(self, rows: Sequence[int] | np.ndarray) -> Tokens:
        """Some profiles, in the order given."""
        return _joined([self.profile(row) for row in rows])

    def digests(self) -> list[str]:
        """A digest of the content of every profile."""
        return [
            hashlib.blake2b(ids.tobytes() + bins.tobytes(), digest_size=16).hexdigest()
            for ids, bins in map(self.profile, range(len(self)))
        ]


def tokenise(
    values: np.ndarray,
    token_ids: np.ndarray,
    ties: str = "middle",
    seed: int = 0,
    signed: bool = False,
    max_genes: int | None = MAX_GENES,
    names: Sequence[str] | None = None,
) -> Tokens:
    """Tokens of dense profiles `values` [profile, gene].

    `token_ids` [gene] are the columns' indices in the vocabulary; columns with -1 are not read. Zeros are not read.
    Equal values span several bins where there are many of them; the package draws one of these at random at every
    reading. Here `ties="middle"` takes the middle one, and `ties="seeded"` draws by `seed`, the profile's content
    and the gene's token, so that nothing depends on which other profiles are read with it.

    `signed`: negative values are ranked with the others (z-scores), instead of refused. `max_genes=None` puts no
    limit on a profile (for `subset_tokens`). `names` are the profiles', for messages.

    Raises InputError for values that are not finite, negative unless `signed`, profiles without an expressed gene
    or with more than `max_genes`, and two columns of one token.
    """
    values, token_ids = np.asarray(values), np.asarray(token_ids)
    if values.ndim != 2 or token_ids.shape != values.shape[1:]:
        raise ValueError(f"values of shape {values.shape} need one token id for each column, not {token_ids.shape}")
    if ties not in TIES:
        raise InputError(f"ties: {ties!r} is not one of {', '.join(TIES)}")
    columns = np.argsort(token_ids, kind="stable")  # one order of tokens, whatever the order of the columns
    columns = columns[np.searchsorted(token_ids[columns], 0) :]
    ids = token_ids[columns].astype(np.int32)
    repeated = np.flatnonzero(np.diff(ids) == 0)
    if repeated.size:
        first = columns[repeated[0] : repeated[0] + 2]
        raise InputError(f"columns {first[0]} and {first[1]} are the same gene of the vocabulary; sum them first")

    bins, kept, counts = [], [], []
    rows_at_once = max(1, CHUNK // max(1, len(columns)))
    for start in range(0, len(values), rows_at_once):
        chunk = values[start : start + rows_at_once, columns]
        _check(chunk, signed, max_genes, lambda row, start=start: _name(names, start + row))
        low, high = _bin_range(chunk)
        read = low > 0
        low, high = low[read], high[read]
        row, column = np.nonzero(read)
        counts.append(read.sum(axis=1))
        kept.append(ids[column])
        if ties == "middle":
            bins.append((low + high) // 2)
        else:
            bins.append(low + (_uniform(row, ids[column], low, high, seed) * (high - low + 1)).astype(low.dtype))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]))]).astype(np.int64)
    return Tokens(
        np.concatenate([np.empty(0, np.int32), *kept]),
        np.concatenate([np.empty(0, np.int64), *bins]).astype(np.uint8),
        offsets,
    )


def subset_tokens(
    tokens: Tokens, names: Sequence[str], subsets: int, seed: int = 0, size: int = MAX_GENES
) -> tuple[Tokens, np.ndarray]:
    """`subsets` random sets of `size` genes of every profile, binned among all genes as the package does.

    They are drawn by `seed` and the profile's name (the case), so a case has the same sets in every cohort and
    company. A profile of `size` genes or fewer is taken whole and once. Returns the tokens and, for each row, the
    profile it is of (int64); `average_subsets` brings their embeddings together.
    """
    if subsets < 1:
        raise InputError(f"subsets: {subsets} sets of genes; it takes at least one")
    if len(names) != len(tokens):
        raise ValueError(f"{len(names)} names for {len(tokens)} profiles")
    rows, owners = [], []
    for i, name in enumerate(names):
        ids, bins = tokens.profile(i)
        if len(ids) <= size:
            rows.append((ids, bins))
            owners.append(i)
            continue
        draw = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()))
        for _ in range(subsets):
            chosen = np.sort(draw.choice(len(ids), size, replace=False, shuffle=False))
            rows.append((ids[chosen], bins[chosen]))
            owners.append(i)
    return _joined(rows), np.array(owners, dtype=np.int64)


def average_subsets(embeddings: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Mean of the embeddings [row, width] of each profile's subsets, of length one again: float32 [profile, width]."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    mean = np.add.reduceat(embeddings.astype(np.float64), starts, axis=0)
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def _joined(rows: list[tuple[np.ndarray, np.ndarray]]) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows])]).astype(np.int64)
    ids = np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in rows)])
    bins = np.concatenate([np.empty(0, np.uint8), *(bins for _, bins in rows)])
    return Tokens(ids, bins, offsets)


def _name(names: Sequence[str] | None, row: int) -> str:
    return f"profile {row}" if names is None else f"profile {names[row]}"


def _check(values: np.ndarray, signed: bool, max_genes: int | None, name) -> None:
    def first(wrong: np.ndarray) -> str | None:
        return name(int(np.argmax(wrong))) if wrong.any() else None

    if profile := first(~np.isfinite(values).all(axis=1)):
        raise InputError(f"{profile}: an expression value is not a finite number; drop or impute the gene")
    if not signed and (profile := first((values < 0).any(axis=1))):
        raise InputError(
            f"{profile}: negative expression; scGPT reads counts or TPM (z-scores only where `values: zscore` says so)"
        )
    genes = np.count_nonzero(values, axis=1)
    if profile := first(genes == 0):
        raise InputError(f"{profile}: none of the genes that are read is expressed")
    if max_genes is not None and (profile := first(genes > max_genes)):
        raise InputError(
            f"{profile}: {genes[np.argmax(genes > max_genes)]} expressed genes, scGPT reads {max_genes} at most; "
            "choose a panel of genes or random `subsets`"
        )


def _bin_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last bin (1 to 50) that a value may fall into [profile, gene]; 0 where the value is zero.

    Edge k of 0..49 is the quantile k/49 of a profile's n non-zero values: rank k(n - 1)/49, counted from 0. Of equal
    values with the ranks a to b, the edges below them are those with k(n - 1)/49 < a, and the edges not above them
    those with k(n - 1)/49 <= b. The last bin is the number of the latter, the first bin one more than the number of
    the former where an edge lies on the values. These are whole numbers; the package interpolates edges and compares,
    and where an edge is a value of the profile (n - 1 a multiple of 7) rounding may put it beside that value.
    """
    values = np.where(values == 0, -np.inf, values)  # sorted before all others, also before negative ones
    order = np.argsort(values, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    zeros = np.count_nonzero(np.isneginf(values), axis=1)[:, None]
    ranks = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    new = np.ones(values.shape, dtype=bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    a = np.maximum.accumulate(np.where(new, ranks, 0), axis=1) - zeros
    last = np.ones(values.shape, dtype=bool)
    last[:, :-1] = new[:, 1:]
    b = np.minimum.accumulate(np.where(last, ranks, values.shape[1])[:, ::-1], axis=1)[:, ::-1] - zeros

    intervals = values.shape[1] - zeros - 1
    steps = np.maximum(intervals, 1)
    low = (a * (N_EDGES - 1) + steps - 1) // steps + 1
    high = (b * (N_EDGES - 1)) // steps + 1
    high = np.where(intervals > 0, high, N_EDGES)  # a single value is equal to all edges
    low = np.minimum(low, high)  # between two edges there is one bin
    spread = []
    for sorted_bins in (low, high):
        bins = np.empty(values.shape, dtype=np.int64)
        np.put_along_axis(bins, order, np.where(a < 0, 0, sorted_bins), axis=1)
        spread.append(bins)
    return spread[0], spread[1]


def _uniform(row: np.ndarray, ids: np.ndarray, low: np.ndarray, high: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for every token, from the seed, the content of its profile and its gene."""
    key = np.empty(len(row), dtype=np.uint64)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(row)]):
        content = hashlib.blake2b(str(seed).encode(), digest_size=8)
        for part in (ids, low, high):
            content.update(part[start:end].tobytes())
        key[start:end] = int.from_bytes(content.digest(), "little")
    return (_mixed(key ^ _mixed(ids.astype(np.uint64))) >> np.uint64(11)) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of the generator splitmix64: close inputs, unrelated outputs. Whole numbers, modulo 2^64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""Mixtures of two cells: what a bulk sample of both would show, with the shares of their classes as the target.

Cells are mixed as shares of transcripts (CP10k), before anything non-linear is done to them: bulk RNA is a sum of
transcripts. Path-GPTOmic mixes at expression level; the space is not stated there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from histofuse.genomics.smoothing.atlas import Atlas
from histofuse.io import InputError

CP10K = 1e4
_CHUNK = 4096  # mixtures made at once; it changes nothing but the memory taken


@dataclass(frozen=True)
class Mixes:
    """n mixtures weight · cell i + (1 − weight) · cell j.

    Args:
        i, j: [n] int64, rows of the atlas.
        weight: [n] float64, λ.
        target: [n, class] float32, the classes' shares; rows sum to 1.
    """

    i: np.ndarray
    j: np.ndarray
    weight: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    def part(self, rows: slice) -> Mixes:
        """Some of the mixtures."""
        return Mixes(self.i[rows], self.j[rows], self.weight[rows], self.target[rows])


def shown_by(atlas: Atlas, panel: Sequence[str]) -> Atlas:
    """The atlas as a panel shows it: the panel's genes alone, and the cells that express any of them.

    A cell that shows nothing cannot be embedded; how many there are is printed. Library sizes stay those over all
    genes. Raises InputError for genes that the atlas lacks, and where a class has no cell left on either side.
    """
    counts = atlas.counts[:, _places(atlas, panel)]
    shows = np.asarray(counts.sum(axis=1)).ravel() > 0
    print(f"{(~shows).sum()} of {len(shows)} cells express none of the panel's {len(panel)} genes and are left out")
    for part in ("train", "held_out"):
        left = set(atlas.labels[atlas.cells(part)[shows[atlas.cells(part)]]].tolist())
        bare = [name for k, name in enumerate(atlas.classes) if k not in left]
        if bare:
            raise InputError(
                f"the panel's {len(panel)} genes show none of the {part} cells of {', '.join(bare)}; choose a larger "
                "panel, or leave the class out"
            )
    return replace(
        atlas,
        counts=counts[shows],
        genes=list(panel),
        library=atlas.library[shows],
        labels=atlas.labels[shows],
        donors=atlas.donors[shows],
        held_out=atlas.held_out[shows],
    )


def draw_mixes(
    atlas: Atlas, n: int, part: str = "train", seed: int = 0, mixing: bool = True, balanced: bool = True
) -> Mixes:
    """Draw n mixtures of a part's cells (`train` or `held_out`).

    Both cells are drawn independently: with `balanced` a class first, each equally often, then one of its cells;
    otherwise any cell. λ ~ U(0, 1); without `mixing` λ = 1 and cell i is shown alone. A seed and part give one endless
    sequence, of which this is the beginning: fewer mixtures are the first of more, and those without mixing have the
    same cells i.
    """
    if n < 1:
        raise InputError(f"{n} mixtures were asked for")
    cells = atlas.cells(part)
    by_class = [cells[atlas.labels[cells] == k] for k in range(len(atlas.classes))]
    draws = np.random.default_rng([seed, part == "held_out"]).random((n, 5))

    def draw(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if not balanced:
            return cells[(first * len(cells)).astype(np.int64)]
        chosen = (first * len(by_class)).astype(np.int64)
        picked = np.empty(n, np.int64)
        for k, of_class in enumerate(by_class):
            rows = chosen == k
            picked[rows] = of_class[(second[rows] * len(of_class)).astype(np.int64)]
        return picked

    weight = draws[:, 4] if mixing else np.ones(n)
    return mixes_of(atlas, draw(draws[:, 0], draws[:, 1]), draw(draws[:, 2], draws[:, 3]), weight)


def mixes_of(atlas: Atlas, i: np.ndarray, j: np.ndarray, weight: np.ndarray) -> Mixes:
    """Mixtures of given cells, with their targets."""
    target = np.zeros((len(i), len(atlas.classes)))
    rows = np.arange(len(i))
    target[rows, atlas.labels[i]] = weight
    target[rows, atlas.labels[j]] += 1 - weight
    return Mixes(i, j, np.asarray(weight, np.float64), target.astype(np.float32))


def mixed_profiles(atlas: Atlas, mixes: Mixes, panel: Sequence[str]) -> np.ndarray:
    """The mixtures' expression of the panel's genes, in CP10k: float32 [n, panel].

    A cell is divided by its library size over all genes of the file, then mixed, then reduced to the panel, whose
    genes must all be in the atlas.
    """
    places = _places(atlas, panel)
    used, rows = np.unique(np.concatenate([mixes.i, mixes.j]), return_inverse=True)
    cells = atlas.counts[used][:, places].astype(np.float64)
    cells = cells.multiply(CP10K / atlas.library[used][:, None]).tocsr()
    first, second = rows[: len(mixes)], rows[len(mixes) :]
    profiles = np.empty((len(mixes), len(panel)), np.float32)
    for start in range(0, len(mixes), _CHUNK):
        part = slice(start, start + _CHUNK)
        weight = mixes.weight[part, None]
        mixed = cells[first[part]].multiply(weight) + cells[second[part]].multiply(1 - weight)
        profiles[part] = mixed.toarray()
    return profiles


def _places(atlas: Atlas, panel: Sequence[str]) -> list[int]:
    """Columns of the panel's genes."""
    place = {gene: k for k, gene in enumerate(atlas.genes)}
    missing = [gene for gene in panel if gene not in place]
    if missing:
        raise InputError(f"{len(missing)} genes of the panel are not in the atlas, the first is {missing[0]}")
    return [place[gene] for gene in panel]

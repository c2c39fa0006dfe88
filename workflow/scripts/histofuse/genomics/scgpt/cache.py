"""Embeddings kept from earlier runs, by the content of the profiles, so that new cases are embedded alone."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from histofuse.genomics.scgpt.tokens import Tokens
from histofuse.io import atomic


def cache_digest(**parts: object) -> str:
    """One digest of all that decides about an embedding beside the profile: checkpoint, precision, settings, code."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class EmbeddingCache:
    """Embeddings in `folder/{digest}/{part}.npz`, a folder for each `cache_digest`; a row is found by its profile's
    tokens.

    All parts of the folder are read, and only the own one is written: jobs of different parts that run at the same
    time never write the same file. A file that is damaged is named in a printed line and passed over; what it held is
    computed again.
    """

    def __init__(self, folder: str | Path, digest: str, part: str):
        self.path = Path(folder) / digest / f"{part}.npz"
        self._own = _read(self.path)
        self._rows = dict(self._own)
        for path in sorted(set(self.path.parent.glob("[!.]*.npz")) - {self.path}):
            self._rows |= _read(path)

    def __len__(self) -> int:
        return len(self._rows)

    def embed(self, tokens: Tokens, compute: Callable[[Tokens], np.ndarray]) -> np.ndarray:
        """float32 [profile, width], in the order given. `compute` is called once, with the profiles not known yet.

        Profiles of the same content are computed once. What is new is written before this returns.
        """
        digests = tokens.digests()
        new = {digest: i for i, digest in enumerate(digests) if digest not in self._rows}
        print(f"scGPT: {len(digests) - len(new)} of {len(digests)} embeddings from the cache, {len(new)} to compute")
        if new:
            computed = compute(tokens.select(list(new.values()))).astype(np.float32, copy=False)
            self._own |= dict(zip(new, computed, strict=True))
            self._rows |= self._own
            with atomic(self.path) as temporary:
                np.savez(temporary, digests=np.array(list(self._own)), embeddings=np.stack(list(self._own.values())))
        return np.stack([self._rows[digest] for digest in digests])


def _read(path: Path) -> dict[str, np.ndarray]:
    """Rows of a file; none where it is missing or damaged."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            digests, embeddings = file["digests"], file["embeddings"]
        if embeddings.ndim != 2 or embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
            raise ValueError("not a matrix of finite float32 numbers")
        return dict(zip(digests.tolist(), embeddings, strict=True))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        print(f"{path}: damaged cache of embeddings, passed over ({error})")
        return {}

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
    """Embeddings in `folder/{digest}.npz`, a file for each `cache_digest`; a row is found by its profile's tokens.

    A file that is damaged is named in a printed line and made again.
    """

    def __init__(self, folder: str | Path, digest: str):
        self.path = Path(folder) / f"{digest}.npz"
        self._rows = self._read()

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
            self._rows = self._read() | dict(zip(new, computed, strict=True)) | self._rows
            self._write()
        return np.stack([self._rows[digest] for digest in digests])

    def _read(self) -> dict[str, np.ndarray]:
        """Rows of the file; none where it is missing or damaged."""
        if not self.path.exists():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                digests, embeddings = file["digests"], file["embeddings"]
            if embeddings.ndim != 2 or embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
                raise ValueError("not a matrix of finite float32 numbers")
            return dict(zip(digests.tolist(), embeddings, strict=True))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            print(f"{self.path}: damaged cache of embeddings, made again ({error})")
            return {}

    def _write(self) -> None:
        with atomic(self.path) as temporary:
            np.savez(temporary, digests=np.array(list(self._rows)), embeddings=np.stack(list(self._rows.values())))

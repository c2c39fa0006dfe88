"""From a cohort's or an atlas' expression to scGPT embeddings: genes to tokens, profiles of one panel, a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histofuse.genomics.genes import gene_names
from histofuse.genomics.scgpt.tokens import average_subsets, subset_tokens, tokenise
from histofuse.genomics.smoothing.panel import match_panel
from histofuse.io import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from histofuse.genomics.scgpt.checkpoint import Checkpoint
    from histofuse.genomics.scgpt.tokens import Tokens
    from histofuse.genomics.scgpt.vocabulary import Vocabulary


def prepare_torch(threads: int) -> str:
    """Give torch its threads; the device to embed on, `cuda` where there is one."""
    import torch

    torch.set_num_threads(threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


def token_of_gene(vocabulary: Vocabulary) -> dict[str, int]:
    """{canonical symbol: index in the vocabulary}.

    The released vocabulary holds former names beside approved ones, so that a gene may have several tokens: the one
    spelled as the approved symbol is taken, otherwise the one that comes first in the vocabulary.
    """
    tokens = sorted(vocabulary.index, key=vocabulary.index.get)
    symbols, _ = gene_names().canonical(tokens)
    found: dict[str, int] = {}
    for token, symbol in zip(tokens, symbols):
        if symbol is not None and (token == symbol or symbol not in found):
            found[symbol] = vocabulary.index[token]
    return found


def case_profiles(
    matrix: AnnData, panel: Sequence[str] | None, values: str = "tpm", max_missing: float = 0.2
) -> tuple[np.ndarray, list[str]]:
    """What a cohort's cases are embedded from: values [case, gene] float32, and the genes.

    Args:
        matrix: cases × canonical symbols with the layers tpm and log_tpm.
        panel: genes to reduce to, in this order; a gene that the cohort lacks is 0, which is not read. None takes all.
        values: `tpm`, or `zscore` of log-TPM over all cases of each source (obs `source`, if there is one): signed
            values whose ranks within a case are not expression ranks; the ablation of the literal data.
        max_missing: share of the panel that may be missing, see `match_panel`.
    """
    if values == "tpm":
        table = np.asarray(matrix.layers["tpm"], np.float32)
    elif values == "zscore":
        table = _zscores(matrix)
    else:
        raise InputError(f"values: {values!r} is neither tpm nor zscore")
    genes = list(matrix.var_names)
    if panel is None:
        return table, genes
    places = match_panel(panel, genes, max_missing)
    profiles = np.zeros((len(table), len(panel)), np.float32)
    profiles[:, places >= 0] = table[:, places[places >= 0]]
    return profiles, list(panel)


def to_tokens(
    profiles: np.ndarray, genes: Sequence[str], vocabulary: Vocabulary, settings: Mapping, names: Sequence[str]
) -> tuple[Tokens, np.ndarray]:
    """Tokens of profiles [profile, gene], and the profile that each row of them is of (see `average_subsets`).

    `settings`: of the entry under `embeddings` (`subsets`, `ties`, `seed`, `values`). Genes without a token are left
    out. `names` are the profiles' own and decide their random subsets.
    """
    ids = token_of_gene(vocabulary)
    token_ids = np.array([ids.get(gene, -1) for gene in genes], np.int64)
    subsets, seed = settings.get("subsets", 0), settings.get("seed", 0)
    tokens = tokenise(
        profiles,
        token_ids,
        ties=settings.get("ties", "middle"),
        seed=seed,
        signed=settings.get("values") == "zscore",
        names=names,
        **({"max_genes": None} if subsets else {}),
    )
    return subset_tokens(tokens, names, subsets, seed) if subsets else (tokens, np.arange(len(tokens)))


def embed_profiles(
    checkpoint: Checkpoint,
    profiles: np.ndarray,
    genes: Sequence[str],
    settings: Mapping,
    names: Sequence[str] | None = None,
    cache=None,
) -> np.ndarray:
    """Embeddings of profiles [profile, gene]: float32 [profile, width], each of length one.

    `cache`: an `EmbeddingCache` from which rows of the same content are taken, and to which new ones are added.
    """
    from histofuse.genomics.scgpt.encoder import embed

    names = [str(k) for k in range(len(profiles))] if names is None else names
    tokens, owners = to_tokens(profiles, genes, checkpoint.vocabulary, settings, names)

    def compute(missing: Tokens) -> np.ndarray:
        return embed(checkpoint, missing, precision=settings.get("precision", "float32"))

    rows = compute(tokens) if cache is None else cache.embed(tokens, compute)
    return average_subsets(rows, owners) if settings.get("subsets") else rows


def embedding_table(case_ids: Sequence[str], embeddings: np.ndarray, prefix: str) -> pd.DataFrame:
    """`case_id` and one float32 column per dimension, `<prefix>0`, `<prefix>1`, …"""
    columns = [f"{prefix}{k}" for k in range(embeddings.shape[1])]
    table = pd.DataFrame(embeddings.astype(np.float32), columns=columns)
    table.insert(0, "case_id", list(case_ids))
    return table


def _zscores(matrix: AnnData) -> np.ndarray:
    """z-scores [case, gene] of log-TPM within each source; a gene that does not vary in a source is 0."""
    values = np.asarray(matrix.layers["log_tpm"], np.float64)
    sources = matrix.obs["source"].to_numpy(str) if "source" in matrix.obs else np.full(len(values), "")
    out = np.zeros_like(values)
    for source in np.unique(sources):
        rows = sources == source
        centred = values[rows] - values[rows].mean(axis=0)
        spread = values[rows].std(axis=0)
        out[rows] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
    return out.astype(np.float32)

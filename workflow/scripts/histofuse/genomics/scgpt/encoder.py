"""Embed tokenised profiles: the class token that scGPT gives after its last layer, of length one.

This is our own pass over the weights of the package's modules. The package's pads to the longest profile of a batch,
gives other results in other company, computes the last layer for every token and does not run in bfloat16 on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histofuse.genomics.scgpt.tokens import N_EDGES, Tokens
from histofuse.genomics.scgpt.vocabulary import CLASS
from histofuse.io import InputError, progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from histofuse.genomics.scgpt.checkpoint import Checkpoint

PRECISIONS = ("float32", "bfloat16")
GPU_TOKENS_PER_BATCH = 65_536


def embed(
    checkpoint: Checkpoint,
    tokens: Tokens,
    precision: str = "float32",
    tokens_per_batch: int | None = None,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Embeddings of the profiles in the order given, float32 [profile, width], each of length one.

    `precision`: type of weights and activations; sums within normalisations, softmax and the result are float32.
    `tokens_per_batch`: profiles of like length go through together up to this many tokens, padding counted. None
    takes one profile at a time on a CPU, where batches are no faster and a profile's result is then, to the last
    bit, its own; and 65,536 on a GPU. `device`: where to compute; None is where the checkpoint is.

    Raises InputError for an unknown precision.
    """
    import torch

    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    device = torch.device(device or checkpoint.device)
    if tokens_per_batch is None:
        tokens_per_batch = 1 if device.type == "cpu" else GPU_TOKENS_PER_BATCH
    with torch.inference_mode():
        network = _Network.of(checkpoint, tokens, getattr(torch, precision), device)
        embeddings = np.empty((len(tokens), checkpoint.settings.width), dtype=np.float32)
        batches = list(_batches(tokens.lengths + 1, tokens_per_batch))
        for rows in progress(batches, "embedding"):
            genes, bins, padding = (one.to(device, non_blocking=True) for one in _padded(tokens, network.index, rows))
            classes = network(genes, bins, padding if padding.any() else None)
            embeddings[rows] = torch.nn.functional.normalize(classes.float(), dim=1).cpu().numpy()
    return embeddings


def _batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Rows in batches, longest first, so that a batch which is too large for the memory is the first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _padded(tokens: Tokens, index: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the tables of genes and of values, and which are padding: [row, 1 + most genes]; the class is first."""
    import torch

    shape = (len(rows), 1 + int(tokens.lengths[rows].max()))
    genes, bins, padding = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.ones(shape, bool)
    for i, row in enumerate(rows):
        part = slice(tokens.offsets[row], tokens.offsets[row + 1])
        end = 1 + part.stop - part.start
        genes[i, 1:end], bins[i, 1:end], padding[i, :end] = index[part], tokens.bins[part], False
    return torch.from_numpy(genes), torch.from_numpy(bins), torch.from_numpy(padding)


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer, in the order of their use."""

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    norm1: tuple[Tensor, Tensor]
    linear1: tuple[Tensor, Tensor]
    linear2: tuple[Tensor, Tensor]
    norm2: tuple[Tensor, Tensor]
    eps: float

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        from torch.nn.functional import layer_norm, linear, relu

        width = x.shape[-1:]
        x = layer_norm(x + linear(attended, *self.out), width, *self.norm1, self.eps)
        return layer_norm(x + linear(relu(linear(x, *self.linear1)), *self.linear2), width, *self.norm2, self.eps)


@dataclass(frozen=True)
class _Network:
    """The transformer, and what is the same for all profiles worked out beforehand.

    A token is the sum of a gene's vector and a value's vector, and there are no more than the genes in use and 51
    values: `genes` and `values` hold these (row 0: the class token). `index`: rows of `genes`, beside `Tokens.ids`.
    """

    layers: list[_Layer]
    heads: int
    dtype: torch.dtype
    index: np.ndarray
    genes: Tensor
    values: Tensor

    @classmethod
    def of(cls, checkpoint: Checkpoint, tokens: Tokens, dtype: torch.dtype, device: torch.device) -> _Network:
        import torch

        model, settings = checkpoint.model, checkpoint.settings
        used, index = np.unique(tokens.ids, return_inverse=True)
        ids = torch.tensor([checkpoint.vocabulary[CLASS], *used.tolist()], device=checkpoint.device)
        bins = torch.arange(N_EDGES + 1, dtype=torch.float32, device=checkpoint.device)
        bins[0] = settings.pad_value  # the value of the class token; zeros are not read
        # Sums of two rows are rounded once, after the sum.
        genes, values = model.encoder(ids).to(device), model.value_encoder(bins).to(device)
        layers = [_weights(layer, dtype, device) for layer in model.transformer_encoder.layers]
        return cls(layers, settings.heads, dtype, index + 1, genes, values)

    def __call__(self, genes: Tensor, bins: Tensor, padding: Tensor | None) -> Tensor:
        """Class tokens after the last layer [profile, width]."""
        from torch.nn.functional import embedding, linear

        x = (embedding(genes, self.genes) + embedding(bins, self.values)).to(self.dtype)
        for layer in self.layers[:-1]:
            x = layer.after_attention(x, _attention(linear(x, *layer.qkv), self.heads, padding))
        last = self.layers[-1]
        return last.after_attention(x[:, 0], _attention_of_class(x, *last.qkv, self.heads, padding))


def _weights(layer: torch.nn.TransformerEncoderLayer, dtype: torch.dtype, device: torch.device) -> _Layer:
    attention = layer.self_attn
    modules = (attention.out_proj, layer.norm1, layer.linear1, layer.linear2, layer.norm2)
    pairs = [(attention.in_proj_weight, attention.in_proj_bias), *((one.weight, one.bias) for one in modules)]
    return _Layer(*(tuple(one.to(device, dtype) for one in pair) for pair in pairs), eps=layer.norm1.eps)


def _attention(qkv: Tensor, heads: int, padding: Tensor | None) -> Tensor:
    """Queries, keys and values side by side [profile, token, 3 · width] to attended values [profile, token, width]."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    profiles, length, triple = qkv.shape
    q, k, v = qkv.view(profiles, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mask = None if padding is None else ~padding[:, None, None, :]
    if qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16:
        # torch's fused attention multiplies bfloat16 on a CPU at the speed of float32; written out it is 2.4 times
        # faster, a head at a time because the scores of all heads fall out of the cache.
        attended = torch.stack([_plain_attention(q[:, h], k[:, h], v[:, h], padding) for h in range(heads)], dim=2)
    else:
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return attended.reshape(profiles, length, triple // 3)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
    """One head, [profile, token, width of a head]."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, :], float("-inf"))
    return scores.softmax(-1) @ v


def _attention_of_class(x: Tensor, weight: Tensor, bias: Tensor, heads: int, padding: Tensor | None) -> Tensor:
    """What the class token attends to [profile, width], of all tokens x [profile, token, width].

    With a single query, keys and values of the tokens need not be worked out: the query is taken through the key's
    projection instead, and the values' projection is made after averaging. The key's bias adds the same to all
    scores and drops out of the softmax.
    """
    import torch
    from torch.nn.functional import linear

    width = x.shape[-1]
    wq, wk, wv = weight.view(3, heads, width // heads, width)
    q = linear(x[:, 0], wq.reshape(width, width), bias[:width]).unflatten(1, (heads, -1))
    scores = torch.einsum("phd,hdw->phw", q, wk) @ x.transpose(1, 2) * q.shape[-1] ** -0.5
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, :], float("-inf"))
    average = scores.softmax(-1) @ x
    return torch.einsum("phw,hdw->phd", average, wv).flatten(1) + bias[2 * width :]

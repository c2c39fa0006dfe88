"""Pathomic Fusion: gated Kronecker product of an image vector and a genomic vector (Chen et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.branches import image_branch, tables
from histofuse.models.layers import SelfNormalisingEncoder, bounded_log_hazard, init_self_normalising


class GatedKronecker(nn.Module):
    """[batch, image], [batch, genomic] → [batch, width]: all products of two vectors, each with a 1 appended.

    A gated vector m is o = Dropout(ReLU(C(σ(z) ⊙ ReLU(A m)))) with z bilinear in both vectors; without a gate
    o = Dropout(ReLU(C m)). The products (33² of vectors of 32) go through two layers of `width`, with `batch_norm`
    after each. Linear layers start as N(0, 1/fan_in) with bias 0. With both gates 143,744 parameters.

    The products are laid out: the linear layer that reads them costs the same however it is ordered, and a matrix
    product does it fastest. Raises InputError with `batch_norm` in training on a batch of one row.
    """

    def __init__(
        self,
        image: int,
        genomic: int,
        gate_image: bool = True,
        gate_genomic: bool = False,
        vector: int = 32,
        width: int = 64,
        dropout: float = 0.25,
        batch_norm: bool = False,
    ):
        super().__init__()
        self.width, self.batch_norm = width, batch_norm
        self.image = Gate(image, (image, genomic), vector, gate_image, dropout)
        self.genomic = Gate(genomic, (image, genomic), vector, gate_genomic, dropout)
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for features in ((vector + 1) ** 2, width):
            norm = [nn.BatchNorm1d(width)] if batch_norm else []
            layers += [nn.Linear(features, width), *norm, nn.ReLU(), nn.Dropout(dropout)]
        self.after = nn.Sequential(*layers)
        init_self_normalising(self)

    def forward(self, image: Tensor, genomic: Tensor) -> Tensor:
        if self.batch_norm and self.training and len(image) == 1:
            raise InputError(
                "training: batch_size: batch normalisation needs two rows in every batch and got one; "
                "take a batch_size of 2 or more"
            )
        one, other = self.image(image, (image, genomic)), self.genomic(genomic, (image, genomic))
        return self.after(kronecker(one, other))


class Gate(nn.Module):
    """One vector of `GatedKronecker`: [batch, features] and both vectors → [batch, vector]."""

    def __init__(self, features: int, both: tuple[int, int], vector: int, gated: bool, dropout: float):
        super().__init__()
        self.gated = gated
        if gated:
            self.hidden = nn.Linear(features, vector)
            self.gate = nn.Bilinear(*both, vector)
        self.out = nn.Sequential(nn.Linear(vector if gated else features, vector), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, one: Tensor, both: tuple[Tensor, Tensor]) -> Tensor:
        if self.gated:
            # As one matrix product of all products; torch's own loop over the outputs takes two to six times as long.
            z = nn.functional.linear(products(*both), self.gate.weight.flatten(1), self.gate.bias)
            one = torch.sigmoid(z) * torch.relu(self.hidden(one))
        return self.out(one)


class PathomicFusion(nn.Module):
    """SNN on the tables, an image vector, their gated Kronecker product and a linear head.

    The published run takes the SNN's weights from the split's own SNN run and holds them for the first epochs
    (`training: frozen: {genomic: 4}`), with image vectors that are never trained.

    Args:
        shapes: the tabular blocks and {"regions": (3, px, px)}, {"tiles": (width,)} or the block `vectors`.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        vectors: block with image vectors that another run has made; None for images that are trained on here.
        image: keywords of the image branch (`branches.RegionEncoder` or `PooledTiles`), by default down to 32 with a
            ReLU.
        gate_image, gate_genomic: True and False for TCGA-GBMLGG, both False for TCGA-KIRC, as published.
        widths, dropout: of the SNN; the product's layers have the same dropout.
        bounded: the output through 6·sigmoid − 3, as published.
    Raises InputError when the block of image vectors is not there, or no other table.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        vectors: str | None = None,
        image: Mapping | None = None,
        gate_image: bool = True,
        gate_genomic: bool = False,
        widths: Sequence[int] = (64, 48, 32, 32),
        dropout: float = 0.25,
        bounded: bool = False,
    ):
        super().__init__()
        blocks = tables(shapes)
        self.vectors, self.bounded = vectors, bounded
        self.blocks = tuple(name for name in blocks if name != vectors)
        if not self.blocks or (vectors is not None and vectors not in blocks):
            needed = "a table" if vectors is None else f"{vectors!r} (params: vectors) and a table"
            raise InputError(f"inputs: {needed} for the SNN must be there; there are {', '.join(shapes)}")
        self.genomic = SelfNormalisingEncoder(sum(blocks[name] for name in self.blocks), widths, dropout)
        if vectors is None:
            self.image = image_branch(shapes, {"project": 32, "activate": True} | dict(image or {}))
        width = self.image.width if vectors is None else blocks[vectors]
        self.fusion = GatedKronecker(width, widths[-1], gate_image, gate_genomic, dropout=dropout)
        self.head = nn.Linear(self.fusion.width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """{images: …, block: [batch, features]} → [batch, outputs]"""
        genomic = self.genomic(torch.cat([batch[name] for name in self.blocks], dim=1))
        image = self.image(batch) if self.vectors is None else batch[self.vectors]
        logits = self.head(self.fusion(image, genomic))
        return bounded_log_hazard(logits) if self.bounded else logits

    def branches(self) -> dict[str, list[nn.Parameter]]:
        image = {} if self.vectors is not None else {"image": list(self.image.parameters())}
        return {"genomic": list(self.genomic.parameters())} | image


def kronecker(one: Tensor, other: Tensor) -> Tensor:
    """All products of two vectors, a 1 appended to each: [batch, m], [batch, n] → [batch, (m + 1)(n + 1)]."""
    return products(*(nn.functional.pad(vector, (0, 1), value=1.0) for vector in (one, other)))


def products(one: Tensor, other: Tensor) -> Tensor:
    """All products of two vectors: [batch, m], [batch, n] → [batch, m · n]."""
    return (one.unsqueeze(2) * other.unsqueeze(1)).flatten(1)

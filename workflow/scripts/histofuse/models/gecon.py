"""Ge-Con of KS-Fusion: slides whose genes are alike should have their images looked at in alike places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from histofuse.io import InputError
from histofuse.models.deformable import Geometry

GEOMETRIES = ("offsets", "points")
LAYOUTS = ("correct", "as_published")
FORMS = ("normalised", "printed")


def row_normalised_gram(vectors: Tensor) -> Tensor:
    """Q = A Aᵀ with rows of length 1: [..., slide, feature] → [..., slide, slide]. A row of zeros stays zero."""
    return F.normalize(vectors @ vectors.transpose(-1, -2), dim=-1)


@dataclass(frozen=True)
class GeCon:
    """(α/M) Σ_ij (R(genes)_ij − mean over heads of R(geometry)_ij)² over the M slides of a batch, R as above.

    Args:
        alpha: weight of a subspace's loss.
        geometry: "offsets" of the deformed points, or the "points" themselves as published; these hold the constant
            grid, next to which offsets are small, so that all of their Gram matrix is about 1/√M.
        layout: "as_published" reads the numbers, which lie slide by slide, as if they lay head by head. With as many
            slides as heads it compares the heads of one slide with each other, not slides.
        form: "normalised", as above; "printed", the paper's equation: (α/M) ‖A Aᵀ(genes) − mean over heads of
            A Aᵀ(geometry)‖, of Gram matrices as they are and not squared.
        detach: only the geometry learns.
    Raises InputError for an unknown option.
    """

    alpha: float = 0.5
    geometry: str = "offsets"
    layout: str = "correct"
    form: str = "normalised"
    detach: bool = False

    def __post_init__(self):
        for key, known in (("geometry", GEOMETRIES), ("layout", LAYOUTS), ("form", FORMS)):
            if getattr(self, key) not in known:
                raise InputError(f"params: gecon: {key}: {getattr(self, key)!r} is not one of {', '.join(known)}")

    def __call__(self, genes: Tensor, attended: Geometry) -> Tensor:
        """[slide, width] of gene vectors and where the same slides' attention looked → a scalar, in float32."""
        moved = getattr(attended, self.geometry).float()  # [slide, head, key, 2]
        slides, heads = moved.shape[:2]
        correct = self.layout == "correct"
        by_head = moved.transpose(0, 1) if correct else moved.reshape(heads, slides, *moved.shape[2:])
        genes = (genes.detach() if self.detach else genes).float()
        with torch.autocast(genes.device.type, enabled=False):
            if self.form == "printed":
                points = by_head.flatten(2)
                difference = genes @ genes.T - (points @ points.mT).mean(0)
                return self.alpha / slides * torch.linalg.vector_norm(difference)
            difference = row_normalised_gram(genes) - row_normalised_gram(by_head.flatten(2)).mean(0)
        return self.alpha / slides * difference.square().sum()

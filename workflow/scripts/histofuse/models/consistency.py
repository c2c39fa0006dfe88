"""Inter-magnification consistency: attention of a batch's patients at 10× should agree with that at 20×.

Attention maps of a slide have millions of entries (heads × places × keys), but only their inner products between the
patients of a batch are needed. Those are added up over a few heads at a time; in the backward pass a head's maps are
made anew, so that never more than these few are held.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from histofuse.io import InputError

FORMS = {"gram": 1.0, "variance": 1e4}  # and the weight of each
HEADS_AT_ONCE = 4

Maps = Callable[[slice], Tensor]  # heads → [batch, head, place, key], each row summing to 1


def check_form(form: str | None) -> None:
    """Raises InputError for a form that is not known; None is none."""
    if form is not None and form not in FORMS:
        raise InputError(f"params: consistency: {form!r} is not one of {', '.join(FORMS)}, nor null for none")


def consistency(first: Maps, second: Maps, heads: int, form: str = "gram") -> Tensor:
    """How far two magnifications disagree about the patients of a batch, unweighted: a scalar.

    Args:
        first, second: attention at each magnification, of the heads asked for. heads: how many there are.
        form: "gram": R = Gram matrix [patient, patient] of the maps less their uniform part 1 / keys, each row
            divided by its length; sum of (R₁ − R₂)² / patients. The magnifications need not have the same places.
            "variance" as published, 10× first: Q = first · secondᵀ, rows divided by their lengths, variance of its
            diagonal (Bessel's; 0 for one patient). That asks every patient's maps to agree with each other as much as
            another's do, not to agree; and the uniform part is nearly all of a map, whence the weight of 10⁴.
    """
    total = None
    for start in range(0, heads, HEADS_AT_ONCE):
        chunk = slice(start, min(start + HEADS_AT_ONCE, heads))
        part = checkpoint(_products, first, second, chunk, form, use_reentrant=False, preserve_rng_state=False)
        total = part if total is None else total + part
    if form == "variance":
        (product,) = total
        diagonal = F.normalize(product, dim=1).diagonal()
        return diagonal.var() if len(diagonal) > 1 else diagonal.sum() * 0
    one, other = F.normalize(total, dim=2)
    return (one - other).square().sum() / len(one)


def _products(first: Maps, second: Maps, heads: slice, form: str) -> Tensor:
    """[1 or 2, patient, patient] of these heads: the products that the form needs."""
    one, other = first(heads), second(heads)
    with torch.autocast(one.device.type, enabled=False):
        one, other = one.float(), other.float()
        if form == "variance":
            one, other = one.flatten(1), other.flatten(1)
            return (one @ other.T).unsqueeze(0)
        one, other = ((maps - 1 / maps.shape[-1]).flatten(1) for maps in (one, other))
        return torch.stack([one @ one.T, other @ other.T])

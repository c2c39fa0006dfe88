"""One slide at two magnifications: the bags, the maps they are laid out in, and one prediction of two."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from histofuse.io import InputError

BAGS = {"20x": "tiles", "10x": "tiles_10x"}
RULES = ("confident", "mean")


def bag_widths(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """{magnification: width of its tile features}. Raises InputError where a bag is missing."""
    for magnification, bag in BAGS.items():
        if bag not in shapes:
            raise InputError(
                f"inputs: {bag} (tiles at {magnification}) is missing; the model reads {' and '.join(BAGS.values())}"
            )
    return {magnification: shapes[bag][0] for magnification, bag in BAGS.items()}


def side_of(bag: int) -> int:
    """Places along a side of a bag's square map. Raises InputError for a bag that is no square."""
    if (side := math.isqrt(bag)) ** 2 != bag:
        raise InputError(f"params: bag: {bag} is no square; the map has as many rows as columns")
    return side


def on_map(values: Tensor, place: Tensor) -> Tensor:
    """Rows of distinct tiles [batch, tile, width] at the places of the map [batch, place]: [batch, place, width]."""
    first = torch.arange(len(values), device=values.device).unsqueeze(1) * values.shape[1]
    return F.embedding(place + first, values.flatten(0, 1))


def places_of(batch: dict[str, Tensor], name: str, bag: int) -> Tensor:
    """[batch, place] of the bag of this name. Raises InputError where it is no map, or not one of `bag` places."""
    if (place := batch.get(f"{name}_place")) is None:
        raise InputError(f"inputs: {name}: the model reads it as a map; give it `order: raster` and `bag: {bag}`")
    if place.shape[1] != bag:
        raise InputError(
            f"params: bag: {bag} places, but the bag {name} holds {place.shape[1]}: give both the same number"
        )
    return place


def check_rule(rule: str, outputs: int) -> None:
    """Raises InputError for a rule that is not known or cannot be used with one output."""
    if rule not in RULES:
        raise InputError(f"params: combine: {rule!r} is not one of {', '.join(RULES)}")
    if rule == "confident" and outputs == 1:
        raise InputError("params: combine: one output has no largest probability to compare; take combine: mean")


def combine(logits: list[Tensor], rule: str) -> Tensor:
    """[batch, outputs] of each magnification → [batch, outputs].

    "mean" averages them. "confident" takes for each sample those with the largest softmax probability, of equal ones
    the first; for the intervals of discrete survival too, where that softmax has no meaning of its own (as published).
    """
    stacked = torch.stack(logits)
    if rule == "mean":
        return stacked.mean(0)
    best = torch.softmax(stacked.float(), dim=-1).amax(-1).argmax(0)
    return stacked[best, torch.arange(stacked.shape[1], device=best.device)]

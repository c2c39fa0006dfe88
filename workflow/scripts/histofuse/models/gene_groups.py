"""Which genes make a token of MCAT and CMTA: a table per group, or consecutive slices of one table."""

from __future__ import annotations

from collections.abc import Sequence

from histofuse.io import InputError
from histofuse.models.branches import tables


def gene_groups(
    shapes: dict[str, tuple[int, ...]], slices: int | Sequence[int] | None = None
) -> list[tuple[str, int, int]]:
    """(table, first column, column after the last) of each group, in order; columns of a group stand side by side.

    Args:
        shapes: of the model's inputs; images are left aside.
        slices: None, and each table is a group (functional signatures, as both papers have them). A list of widths
            cuts a single table in the order of its columns (KS-Fusion's table has 431 genes as 100, 100, 100, 131); a
            number cuts it into as many equal slices, the last of which takes the remainder.
    Raises InputError without a table, and for slices that are not of one table or do not fit it.
    """
    blocks = tables(shapes)
    if not blocks:
        raise InputError(f"inputs: a table per group of genes, or one to cut, is needed; there are {', '.join(shapes)}")
    if slices is None:
        return [(name, 0, features) for name, features in blocks.items()]
    if len(blocks) > 1:
        raise InputError(f"params: slices cut one table; there are {', '.join(blocks)}: join them or leave slices out")
    ((name, features),) = blocks.items()
    if isinstance(slices, int):
        number, slices = slices, [features // slices] * slices if slices > 0 else []
        if slices:
            slices[-1] += features - sum(slices)
        what = f"{number} slices"
    else:
        what = f"slices of {', '.join(map(str, slices))}"
    if not slices or min(slices) < 1 or sum(slices) != features:
        raise InputError(f"params: slices: {name} has {features} columns, which cannot be cut into {what}")
    stops = [sum(slices[: k + 1]) for k in range(len(slices))]
    return [(name, stop - width, stop) for width, stop in zip(slices, stops, strict=True)]

"""The released T2T-ViT files (`81.5_T2T_ViT_14.pth.tar` and its sisters) and files of the same form."""

from __future__ import annotations

import argparse
import math
import pickle
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from histofuse.io import InputError
from histofuse.models.t2t_vit import T2TViT

ENTRIES = ("state_dict_ema", "state_dict")  # the averaged weights first: they are the published accuracy's
PREFIX = "module."  # of weights saved from DataParallel
RANDOM_FEATURES = "tokens_to_token.attention1.w"  # only a Performer has them
SHOWN = 5  # names in a message
# What the published trainer stores beside the weights, its arguments and metrics. Rebuilding these runs no code of the
# file. numpy before 2.0 wrote its scalars under the second name.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS = [
    argparse.Namespace,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")),
]
CONVERT = (
    "If you trust its source, convert it once, in a container without network or data, and give the new file: "
    "python -c \"import torch; f = torch.load({name!r}, map_location='cpu', weights_only=False); "
    "torch.save(f.get('state_dict_ema', f.get('state_dict', f)), 'weights.pth')\""
)


def load_checkpoint(model: T2TViT, path: str | Path, head: bool = False) -> str | None:
    """Put the weights of a released file into a model; returns the entry of the file that was taken (None: the whole).

    The weights are the file's entry `state_dict_ema`, else `state_dict`, else the file itself; names may begin with
    `module.`. Every tensor of the model must be there and nothing else. The position table of another image size is
    resized. `head`: also load the classifier, which must then have the model's classes; otherwise the file's is left
    aside and the model keeps its own.

    Nothing in the file is executed. Raises InputError naming the file and the keys, and leaves the model as it was: a
    file that cannot be read or holds no weights, the other token module, tensors that are missing, unknown, of another
    shape or not finite.
    """
    path = Path(path)
    entry, state = _weights(_read(path), path)
    stored = "performer" if RANDOM_FEATURES in state else "transformer"
    if stored != model.token_module and any(key.startswith("tokens_to_token.") for key in state):
        raise InputError(
            f"{path}: {RANDOM_FEATURES} is {'there' if stored == 'performer' else 'missing'}, so its token module is "
            f"the {stored}, and the model's the {model.token_module}: set token_module to {stored}"
        )
    wanted = model.state_dict()
    if not head:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
        wanted = {key: value for key, value in wanted.items() if not key.startswith("head.")}
    if "pos_embed" in state:
        state["pos_embed"] = resize_positions(state["pos_embed"], wanted["pos_embed"].shape[1])
    _compare(state, wanted, path)
    model.load_state_dict(state, strict=head)  # without a head, `_compare` was the strict comparison of the rest
    return entry


def resize_positions(table: Tensor, positions: int) -> Tensor:
    """The table [1, 1 + side², width] for `positions` = 1 + another side²: bicubic, the class token's row as it is.

    A table that is not of this form comes back unchanged.
    """
    old, new = (math.isqrt(max(count - 1, 0)) for count in (table.shape[1] if table.ndim == 3 else 0, positions))
    if old == new or old == 0 or table.shape[:2] != (1, 1 + old * old):
        return table
    grid = table[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _read(path: Path) -> object:
    """What the file holds: tensors, plain values and the HARMLESS objects."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives, pickled objects and other formats each raise their own kind
        if isinstance(error, OSError) and not path.is_file():
            raise InputError(f"{path}: there is no such file") from error
        # torch's own text about objects advises to execute what the file holds, so it is not passed on
        pickled = isinstance(error, pickle.UnpicklingError)
        hidden = re.search(r"GLOBAL (\S+)", str(error)) if pickled else None
        if hidden:
            raise InputError(
                f"{path}: holds a pickled {hidden[1]} beside the weights; unpickling it would run code that the file "
                f"chooses. {CONVERT.format(name=path.name)}"
            ) from error
        told = f"{type(error).__name__}: {error}".partition(". ")[0].rstrip(": ")
        reason = "it is not in torch's format" if pickled else told
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({reason}); fetch it again, whole, as it was released"
        ) from error


def _weights(content: object, path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The entry that holds the weights and these in float32, by name without the prefix."""
    entry = next((name for name in ENTRIES if isinstance(content, dict) and name in content), None)
    state = content if entry is None else content[entry]
    where = path if entry is None else f"{path}: {entry}"
    if not isinstance(state, dict) or not state:
        kind = "an empty dict" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise InputError(f"{where}: holds {kind}, not a state dict of tensors by name")
    weights = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{where}: {key!r} is a {type(value).__name__}, not a tensor with a name")
        if not value.is_floating_point():
            raise InputError(f"{where}: {key} holds {value.dtype}, weights are floating-point numbers")
        name = key.removeprefix(PREFIX)
        if name in weights:
            raise InputError(f"{where}: {name} is there with and without the prefix {PREFIX!r}")
        weights[name] = value.float()
    return entry, weights


def _compare(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that are not the model's in every name and shape, or not numbers."""
    common = [key for key in wanted if key in state]
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unknown": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
            for key in common
            if state[key].shape != wanted[key].shape
        ],
        "not finite": [key for key in common if not state[key].isfinite().all()],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}" for kind, keys in problems.items() if keys)
        raise InputError(f"{path}: the tensors do not fit the model ({text})")

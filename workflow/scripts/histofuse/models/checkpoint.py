"""Released weights: files that are read without running anything in them, and compared with a model before use."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from histofuse.io import InputError

ENTRIES = ("state_dict_ema", "state_dict")  # the averaged weights first: they are the published accuracy's
PREFIX = "module."  # of weights saved from DataParallel
COUNTER = "num_batches_tracked"  # of batch normalisation: an integer that nothing here depends on
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


def read_weights(path: str | Path) -> tuple[str | None, dict[str, Tensor]]:
    """The weights in a file of torch's, float32 by name, and the entry of the file they are (None: the whole).

    They are the entry `state_dict_ema`, else `state_dict`, else the file itself; names may begin with `module.`.
    Nothing in the file is executed. Raises InputError naming the file and the keys: a file that cannot be read or
    holds no weights.
    """
    path = Path(path)
    return _weights(_read(path), path)


def check_fit(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
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
        if key.endswith(COUNTER):
            continue
        if not value.is_floating_point():
            raise InputError(f"{where}: {key} holds {value.dtype}, weights are floating-point numbers")
        name = key.removeprefix(PREFIX)
        if name in weights:
            raise InputError(f"{where}: {name} is there with and without the prefix {PREFIX!r}")
        weights[name] = value.float()
    return entry, weights

"""An scGPT checkpoint folder: `args.json`, `vocab.json`, `best_model.pt`."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histofuse.genomics.scgpt.shim import transformer_model
from histofuse.genomics.scgpt.vocabulary import Vocabulary
from histofuse.io import InputError, sha256

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILES = ("args.json", "vocab.json", "best_model.pt")
# Setting -> key of args.json. The package reads dropout and the layers of the cell type head as well, which say
# nothing about an embedding.
KEYS = {"width": "embsize", "heads": "nheads", "hidden": "d_hid", "layers": "nlayers"}
# Fused attention stores the same tensors under other names; no value is moved or transposed.
RENAMED = (("self_attn._impl.", "self_attn."), ("self_attn.Wqkv.", "self_attn.in_proj_"))
# Heads and aids of training, which an embedding does not pass through. Batch normalisations (`bn.`, `dsbn.`) are not
# among them: the package puts those between the tokens and the transformer.
HEADS = (
    "decoder.",
    "cls_decoder.",
    "mvc_decoder.",
    "batch_encoder.",
    "flag_encoder.",
    "grad_reverse_discriminator.",
)


@dataclass(frozen=True)
class Settings:
    """What of `args.json` decides about an embedding."""

    width: int
    heads: int
    hidden: int
    layers: int
    pad_token: str
    pad_value: float


@dataclass(frozen=True)
class Checkpoint:
    """`model`: scgpt's TransformerModel in evaluation mode, without its heads. `digest`: sha256 over the files."""

    model: nn.Module
    vocabulary: Vocabulary
    settings: Settings
    digest: str

    @property
    def device(self) -> torch.device:
        return self.model.encoder.embedding.weight.device


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint folder in the official layout, in float32.

    Attention weights may have any of their three names: `in_proj_*`, `Wqkv.*` (made with flash attention) and
    `_impl.Wqkv.*` (scgpt 0.2.5). The package itself skips tensors that are missing or of another shape, and embeds
    with random weights in their place; here every tensor of the encoder must be there, and nothing else but the
    heads of training may be.

    Raises InputError naming the file and the key: files that are missing or cannot be read, a vocabulary that
    disagrees with the weights, tensors missing, unknown, or of another shape, and anything in the weights' file
    that is no tensor (it is never unpickled).
    """
    import torch

    folder = Path(folder)
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        raise InputError(f"{folder}: no scGPT checkpoint, {' and '.join(absent)} missing (needed: {', '.join(FILES)})")
    settings = _read_settings(folder / "args.json")
    vocabulary = Vocabulary.from_file(folder / "vocab.json")
    if settings.pad_token not in vocabulary.index:
        raise InputError(f"{folder / 'args.json'}: pad_token {settings.pad_token!r} is not in vocab.json")
    state = _read_state(folder / "best_model.pt")
    with torch.device("meta"):  # shapes only: the weights come from the file, so none are drawn
        model = transformer_model()(
            ntoken=len(vocabulary),
            d_model=settings.width,
            nhead=settings.heads,
            d_hid=settings.hidden,
            nlayers=settings.layers,
            vocab=vocabulary.index,
            pad_token=settings.pad_token,
            pad_value=settings.pad_value,
        )
    del model.decoder, model.cls_decoder
    state = _fitting(state, model.state_dict(), folder)
    model.load_state_dict(state, strict=True, assign=True)
    model = model.eval().requires_grad_(False).to(device)
    return Checkpoint(model, vocabulary, settings, _digest(folder))


def _read_settings(path: Path) -> Settings:
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(args, dict):
        raise InputError(f"{path}: the settings of a checkpoint are a JSON object")
    missing = [key for key in (*KEYS.values(), "pad_token", "pad_value") if key not in args]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing")
    for key in KEYS.values():
        if type(args[key]) is not int or args[key] < 1:
            raise InputError(f"{path}: {key} is {args[key]!r}, which must be a whole number above 0")
    if type(args["pad_value"]) not in (int, float):
        raise InputError(f"{path}: pad_value is {args['pad_value']!r}, which must be a number")
    if not isinstance(args["pad_token"], str):
        raise InputError(f"{path}: pad_token is {args['pad_token']!r}, which must be a token")
    if args["embsize"] % args["nheads"]:
        raise InputError(f"{path}: embsize {args['embsize']} cannot be divided among nheads {args['nheads']}")
    sizes = {name: args[key] for name, key in KEYS.items()}
    return Settings(**sizes, pad_token=args["pad_token"], pad_value=args["pad_value"])


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state dict under the names of torch's own attention, heads of training left out, in float32."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives, pickled objects and other formats each raise their own kind
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's text advises to execute what the file holds
            hidden = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"it holds a pickled {hidden[1]}" if hidden else "it holds pickled objects"
        raise InputError(
            f"{path}: cannot be read as weights alone ({reason}); a file that holds anything but tensors is not opened"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict of tensors by name")
    renamed = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise InputError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor with a name")
        if key.startswith(HEADS):
            continue
        name = key
        for old, new in RENAMED:
            name = name.replace(old, new)
        if name in renamed:
            raise InputError(f"{path}: {key} is there under two of its names")
        if not value.is_floating_point():
            raise InputError(f"{path}: {key} holds {value.dtype}, weights are floating-point numbers")
        renamed[name] = value.float().contiguous()
    return renamed


def _fitting(state: dict[str, Tensor], wanted: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The state, if its names and shapes are those wanted."""
    weights = folder / "best_model.pt"
    embedding = "encoder.embedding.weight"
    if embedding in state and state[embedding].ndim == 2 and len(state[embedding]) != len(wanted[embedding]):
        raise InputError(
            f"{folder / 'vocab.json'}: {len(wanted[embedding])} tokens with the special ones, but {embedding} of "
            f"{weights.name} has {len(state[embedding])} rows; the files are not of one checkpoint"
        )
    common = wanted.keys() & state.keys()
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - wanted.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
            for key in sorted(common)
            if state[key].shape != wanted[key].shape
        ],
        "not finite": sorted(key for key in common if not state[key].isfinite().all()),
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in problems.items() if keys)
        raise InputError(f"{weights}: the tensors do not fit args.json ({text})")
    return state


def _digest(folder: Path) -> str:
    return hashlib.sha256("".join(f"{name} {sha256(folder / name)}\n" for name in FILES).encode()).hexdigest()

"""Weights of encoders: files that are compared with the network before they are loaded, and the hub's."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.t2t_checkpoint import load_checkpoint
from histofuse.slides.encoder_models import whole_state
from histofuse.slides.encoder_presets import Preset

COUNTER = "num_batches_tracked"


def load_weights(model: nn.Module, preset: Preset, path: Path) -> None:
    """Load a .safetensors, .pth or .bin file of a state dict; for a model of ours, its released file.

    Strictly: only keys of the whole timm model that were cut off may be left over. Nothing in the file is executed.
    Raises InputError naming the file and the keys.
    """
    if preset.library == "histofuse":
        load_checkpoint(model, path)
        return
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            # Mapped, so that beside the network the file takes no memory; files of before torch 1.6 cannot be.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # each format raises its own kinds
        raise InputError(f"{path}: encoder weights cannot be read ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    state = {key: value for key, value in state.items() if torch.is_tensor(value)}
    # Counters of training steps: older files lack them, and a model in evaluation does not look at them.
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - model.state_dict().keys() - whole_state(preset).keys()),
        "of another shape": sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape),
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in problems.items() if keys)
        raise InputError(f"{path}: the weights do not fit the encoder ({text})")
    model.load_state_dict({key: state[key] for key in wanted}, strict=False)


def fetch_weights(preset: Preset) -> Path:
    """The file of a preset's weights, from the hub or its cache on this machine.

    Raises InputError that says what to accept, where, and how to go on when the hub refuses.
    """
    if not preset.hub:
        raise InputError(
            f"encoder {preset.name!r} has no weights on the hub: download {preset.file} from {preset.source} and set "
            "`weights` to its path"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(preset.hub, preset.file, revision=preset.revision))
    except Exception as error:  # refusals, no network, and names that are gone each raise their own kind
        raise InputError(explain(preset, error)) from error


def explain(preset: Preset, error: Exception) -> str:
    """What a user can do about weights that the hub did not give."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = status in {401, 403} or type(error).__name__ == "GatedRepoError"
    if not refused:
        return (
            f"encoder {preset.name!r}: its weights could not be fetched from the hub ({error}). Try again with a "
            "network, or set `weights` to the path of a file of them"
        )
    place = preset.source or f"the page of {preset.model}"
    licence = f" (licence {preset.licence})" if preset.licence else ""
    return (
        f"encoder {preset.name!r}: the hub refused its weights. Log in and accept the terms at {place}{licence}, then "
        "put a read token of that account into the environment variable HF_TOKEN; or download "
        f"{preset.file or 'the weights'} there and set `weights` to its path"
    )


def weights_digest(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if key.endswith(COUNTER):
            continue
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()

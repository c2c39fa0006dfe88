"""Tile encoders: an image model of timm that turns RGB tiles into feature vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.slides.torchvision_shim import ensure_torchvision

# Encoders that are a part of a timm model: name -> (model, stage after which it is cut). The ResNet-50 is the
# one trained by torchvision on ImageNet-1k, cut after its third stage: 1024 channels, as CLAM and its heirs
# use it.
CUT_MODELS = {"resnet50-stage3": ("resnet50.tv_in1k", 3)}
# Convolutions on a CPU choose their algorithm by the size of the batch, and with it the last bits. One fixed
# size makes a feature independent of its neighbours; small ones are no slower, because they stay in the
# cache.
CPU_BATCH = 4
RANDOM_SEED = 0


@dataclass(frozen=True)
class Encoder:
    """A model in evaluation mode. `dim` is the width of a feature, `digest` the sha256 of its weights."""

    module: nn.Module
    mean: Tensor
    std: Tensor
    dim: int
    name: str
    digest: str
    batch: int
    device: torch.device

    @torch.inference_mode()
    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 RGB [n, height, width, 3] to float32 [n, dim]; n is at most `batch`."""
        # Always a whole batch, so that the same tile gives the same bits wherever it stands.
        padded = np.zeros((self.batch, *tiles.shape[1:]), np.uint8)
        padded[: len(tiles)] = tiles
        images = torch.from_numpy(padded).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        images = images.sub_(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)
        return self.module(images)[: len(tiles)].float().cpu().numpy()


def load_encoder(settings: dict) -> Encoder:
    """Build the encoder that the settings name, on the GPU when there is one.

    Settings: `encoder` (a name in CUT_MODELS or of any timm model), `tile_px`, `batch` (tiles at a time on a
    GPU), and `weights`: "random" (He initialisation from a fixed seed), "hub" (what timm publishes for the
    model), or a path to a .safetensors, .pth or .bin file of a state dict. Raises InputError when the model
    is unknown, does not take tiles of this size, or the weights do not fit it.
    """
    ensure_torchvision()
    import timm

    name, weights = settings["encoder"], settings["weights"]
    model_name, stage = CUT_MODELS.get(name, (name, None))
    cut = {"num_classes": 0} if stage is None else {"features_only": True, "out_indices": (stage,)}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = timm.create_model(model_name, pretrained=weights == "hub", **cut)
    except Exception as error:  # unknown names, no network and failed downloads each raise their own kind
        raise InputError(f"encoder {name!r} with weights {weights!r} cannot be made: {error}") from error

    if weights == "random":
        _wake_residual_blocks(model)
    elif weights != "hub":
        with torch.device("meta"):
            whole = timm.create_model(model_name).state_dict().keys()
        _load_weights(model, Path(weights), ignored=set(whole))

    config = timm.data.resolve_data_config({}, model=model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = nn.Sequential(model, _MeanOverPositions()).eval().requires_grad_(False)
    digest = _weights_digest(model)
    module = module.to(device=device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(config[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
    batch = CPU_BATCH if device.type == "cpu" else settings["batch"]
    dim = _width(module, name, settings["tile_px"], device)
    return Encoder(module, mean, std, dim, name, digest, batch, device)


class _MeanOverPositions(nn.Module):
    """Feature maps [n, dim, h, w] (in a list, as timm's cut models give them) to [n, dim]; vectors stay."""

    def forward(self, output: Tensor | list[Tensor]) -> Tensor:
        output = output[0] if isinstance(output, (list, tuple)) else output
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def _wake_residual_blocks(model: nn.Module) -> None:
    """timm starts the last normalisation of a residual block at zero, which leaves it without effect."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)


def _load_weights(model: nn.Module, path: Path, ignored: set[str]) -> None:
    """Load a state dict strictly; only keys of the whole timm model that were cut off may be left over."""
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own kinds
        raise InputError(f"{path}: encoder weights cannot be read ({error})") from error
    state = state.get("state_dict", state)
    wanted = model.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - wanted.keys() - ignored),
        "of another shape": sorted(
            k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape
        ),
    }
    if any(problems.values()):
        text = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in problems.items() if keys
        )
        raise InputError(f"{path}: the weights do not fit the encoder ({text})")
    model.load_state_dict({key: state[key] for key in wanted})


def _weights_digest(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _width(module: nn.Module, name: str, tile_px: int, device: torch.device) -> int:
    try:
        return module(torch.zeros(1, 3, tile_px, tile_px, device=device)).shape[1]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"encoder {name!r} does not take tiles of {tile_px} px: {error}") from error

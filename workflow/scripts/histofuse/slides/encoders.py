"""Tile encoders: an image model of timm that turns RGB tiles into feature vectors."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from histofuse.io import InputError
from histofuse.slides.torchvision_shim import ensure_torchvision

# Encoders that are a part of a timm model: name -> (model, stage after which it is cut). The ResNet-50 is the
# one trained by torchvision on ImageNet-1k, cut after its third stage: 1024 channels, as CLAM and its heirs
# use it.
CUT_MODELS = {"resnet50-stage3": ("resnet50.tv_in1k", 3)}
# Convolutions on a CPU choose their algorithm, and with it the last bits, by the size of the batch. A fixed
# size keeps them independent of the settings; larger ones are no faster.
CPU_BATCH = 16
RANDOM_SEED = 0
COUNTER = "num_batches_tracked"


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
        """uint8 RGB [n, height, width, 3] to float32 [n, dim]; memory is meant for n ≤ `batch`."""
        images = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        images = images.sub_(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)
        return self.module(images).float().cpu().numpy()


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
            if weights == "random":
                _start_at_random(model)
    except Exception as error:  # unknown names, no network and failed downloads each raise their own kind
        raise InputError(f"encoder {name!r} with weights {weights!r} cannot be made: {error}") from error

    if weights not in {"random", "hub"}:
        with torch.device("meta"):
            whole = timm.create_model(model_name).state_dict().keys()
        _load_weights(model, Path(weights), ignored=set(whole))

    config = timm.data.resolve_data_config({}, model=model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    digest = _weights_digest(model)
    module = nn.Sequential(model, _MeanOverPositions()).eval().requires_grad_(False)
    dim = _width(module, name, settings["tile_px"])
    module = _folded(module, settings["tile_px"]).to(device=device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(config[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
    batch = CPU_BATCH if device.type == "cpu" else settings["batch"]
    return Encoder(module, mean, std, dim, name, digest, batch, device)


class _MeanOverPositions(nn.Module):
    """Feature maps [n, dim, h, w] (in a list, as timm's cut models give them) to [n, dim]; vectors stay."""

    def forward(self, output: Tensor | list[Tensor]) -> Tensor:
        output = output[0] if isinstance(output, (list, tuple)) else output
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def _start_at_random(model: nn.Module) -> None:
    """He initialisation that lets an untrained network tell tiles apart.

    timm starts the last normalisation of a residual block at zero (the block does nothing), and at one every
    block doubles the variance until all tiles look alike: the mean cosine between tiles of real slides is
    then 0.999. At a tenth, with convolutions scaled by their inputs, features are near 1 and linear fits to
    them, tested on stains they have not seen, follow optical density and nuclear area at correlations of 0.93
    to 1.00.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.constant_(module.weight, 0.1)


def _load_weights(model: nn.Module, path: Path, ignored: set[str]) -> None:
    """Load a state dict strictly; only keys of the whole timm model that were cut off may be left over."""
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own kinds
        raise InputError(f"{path}: encoder weights cannot be read ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    # Counters of training steps: older files lack them, and a model in evaluation does not look at them.
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - model.state_dict().keys() - ignored),
        "of another shape": sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape),
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in problems.items() if keys)
        raise InputError(f"{path}: the weights do not fit the encoder ({text})")
    model.load_state_dict({key: state[key] for key in wanted}, strict=False)


def _weights_digest(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if key.endswith(COUNTER):
            continue
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _width(module: nn.Module, name: str, tile_px: int) -> int:
    try:
        return module(torch.zeros(1, 3, tile_px, tile_px)).shape[1]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"encoder {name!r} does not take tiles of {tile_px} px: {error}") from error


@torch.no_grad()
def _folded(module: nn.Module, tile_px: int) -> nn.Module:
    """The same function with normalisations folded into convolutions: a quarter faster on a CPU.

    Whether a normalisation follows the convolution that stands before it is up to the model's forward pass,
    so the result is compared with the original and dropped where they differ.
    """
    folded = copy.deepcopy(module)
    for parent in list(folded.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(parent.named_children()):
            # Exactly this class: timm's subclasses also hold the activation.
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    probe = torch.rand(2, 3, tile_px, tile_px, generator=torch.Generator().manual_seed(0))
    return folded if torch.allclose(folded(probe), module(probe), rtol=1e-4, atol=1e-4) else module

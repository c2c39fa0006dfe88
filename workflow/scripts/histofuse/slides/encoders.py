"""Tile encoders: an image model that turns RGB tiles into feature vectors, at the full rate of the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.slides.encoder_models import build, folded, start_at_random
from histofuse.slides.encoder_presets import Preset, find_preset
from histofuse.slides.encoder_weights import explain, fetch_weights, load_weights, weights_digest
from histofuse.slides.malloc import freed_memory_kept

# Convolutions on a CPU choose their algorithm, and with it the last bits, by the size of the batch and the number of
# threads; from 16 images on they no longer do, and larger batches are no faster.
CPU_BATCH = 16
RANDOM_SEED = 0
# Batches handed to a GPU before the oldest must be done: enough to keep it busy, few enough to bound the memory.
IN_FLIGHT = 3


@dataclass(frozen=True)
class Encoder:
    """A model in evaluation mode. `dim` is the width of a feature, `digest` the sha256 of its weights.

    Tiles of another size than `input_px` are resized to it whole, antialiased (`interpolation`: bilinear or bicubic);
    None: the model takes them as they are. `precision` is torch.float32 or torch.bfloat16.
    """

    module: nn.Module
    mean: Tensor
    std: Tensor
    dim: int
    name: str
    digest: str
    batch: int
    device: torch.device
    input_px: int | None = None
    interpolation: str = "bicubic"
    precision: torch.dtype = torch.float32

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 RGB [n, height, width, 3] to float32 [n, dim]."""
        return self.encode_all([tiles])[0]

    def encode_all(self, batches: Iterable[np.ndarray]) -> tuple[np.ndarray, float]:
        """All tiles of a slide: uint8 RGB batches [k, height, width, 3] of any k to features float32 [n, dim].

        Also gives the share of the time, from asking for the first batch until the last feature is there, in which
        the encoder computed; the rest was spent waiting for tiles. On a CPU a tile's feature is the same bytes
        whatever stands beside it and however tiles are batched. Tiles go to a GPU while it works on those before,
        and results stay there until the end.
        """
        on_gpu = self.device.type == "cuda"
        features, spans, start = [], [], time.perf_counter()
        with nullcontext() if on_gpu else freed_memory_kept():
            for tiles, n in _recut(batches, self.batch, on_gpu):
                tiles = tiles.to(self.device, non_blocking=True)
                begin = self._now()
                features.append(self._features(tiles)[:n])
                spans.append((begin, self._now()))
                if on_gpu and len(spans) > IN_FLIGHT:
                    spans[-1 - IN_FLIGHT][1].synchronize()
            found = torch.cat(features).cpu().numpy() if features else np.zeros((0, self.dim), np.float32)
        wall = time.perf_counter() - start
        busy = sum(begin.elapsed_time(end) / 1e3 if on_gpu else end - begin for begin, end in spans)
        return found, min(busy / wall, 1.0)

    @torch.inference_mode()
    def _features(self, tiles: Tensor) -> Tensor:
        """uint8 [n, height, width, 3] to float32 [n, dim], both on the device."""
        images = tiles.permute(0, 3, 1, 2).float().div_(255)
        if self.input_px and images.shape[2:] != (self.input_px, self.input_px):
            images = F.interpolate(images, (self.input_px, self.input_px), mode=self.interpolation, antialias=True)
            images = images.clamp_(0, 1)  # a bicubic filter overshoots
        images = images.sub_(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)
        with self._arithmetic():
            return self.module(images).float()

    def _arithmetic(self) -> AbstractContextManager:
        if self.precision != torch.float32:
            return torch.autocast(self.device.type, self.precision)
        # cuDNN's convolutions otherwise round float32 to 10 bits of mantissa.
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    def _now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def load_encoder(settings: dict) -> Encoder:
    """Build the encoder that the settings name, on the GPU when there is one.

    Settings:
        encoder: a preset (encoder_presets.tsv) or any timm model.
        tile_px: side of the tiles.
        batch: tiles at a time on a GPU.
        weights: "random" (He initialisation from a fixed seed), "hub" (what is published for the model), or a path
            to a .safetensors, .pth or .bin file of a state dict.
        stage, pooling: see `build` in encoder_models.py; None or absent: the preset's or the model's own.
        precision: "float32", "bfloat16" or "auto" (bfloat16 on a GPU that has it, else float32).

    Raises InputError when the model is unknown, cannot be cut or pooled like that, does not take tiles of this size,
    or the weights cannot be had or do not fit it.
    """
    name, weights = settings["encoder"], settings["weights"]
    stage, pooling = settings.get("stage"), settings.get("pooling")
    preset = find_preset(name)
    own = weights == "hub" and preset.library == "timm" and not preset.hub  # what timm itself publishes
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            module = build(preset, stage, pooling, pretrained=own).eval().requires_grad_(False)
            if weights == "random":
                start_at_random(module)
    except InputError:
        raise
    except Exception as error:  # failed downloads and kinds of models each raise their own
        if own:
            raise InputError(explain(preset, error)) from error
        raise InputError(f"encoder {name!r} with weights {weights!r} cannot be made: {error}") from error
    if weights != "random" and not own:
        load_weights(module.model, preset, fetch_weights(preset) if weights == "hub" else Path(weights))

    mean, std, input_px, interpolation = _transform(preset, module.model)
    image_px = input_px or settings["tile_px"]
    digest = weights_digest(module.model)
    dim = _width(module, name, image_px)
    if dim != preset.dim and preset.dim and (stage, pooling) == (None, None):
        raise InputError(f"encoder {name!r} gives {dim} numbers, not {preset.dim}: this version of timm changed it")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(
        module=folded(module, image_px).to(device=device, memory_format=torch.channels_last),
        mean=torch.tensor(mean, device=device).view(1, 3, 1, 1),
        std=torch.tensor(std, device=device).view(1, 3, 1, 1),
        dim=dim,
        name=name,
        digest=digest,
        batch=CPU_BATCH if device.type == "cpu" else settings["batch"],
        device=device,
        input_px=input_px,
        interpolation=interpolation,
        precision=_precision(settings.get("precision", "auto"), device),
    )


def _recut(batches: Iterable[np.ndarray], size: int, on_gpu: bool) -> Iterator[tuple[Tensor, int]]:
    """Tiles [size, height, width, 3] and how many of them count, from batches of any length.

    On a CPU the last one is filled up with black, so that every convolution sees `size` images. For a GPU it is
    shorter, and all are pinned; each has memory of its own, because copies to the GPU are still under way when the
    next is filled.
    """
    buffer, filled = None, 0
    for batch in batches:
        while len(batch):
            if buffer is None:
                buffer, filled = torch.zeros((size, *batch.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu), 0
            n = min(size - filled, len(batch))
            buffer.numpy()[filled : filled + n] = batch[:n]
            batch, filled = batch[n:], filled + n
            if filled == size:
                yield buffer, size
                buffer = None
    if buffer is not None:
        yield buffer[:filled] if on_gpu else buffer, filled


def _transform(preset: Preset, model: nn.Module) -> tuple[tuple, tuple, int | None, str]:
    """Mean, SD, side of the images (None: any) and interpolation: the preset's, else what timm says of the model."""
    if preset.mean:
        return preset.mean, preset.std, preset.input_px, preset.interpolation
    import timm

    config = timm.data.resolve_data_config({}, model=model)
    fixed = getattr(model, "pretrained_cfg", {}).get("fixed_input_size", False)
    input_px = config["input_size"][-1] if fixed else None
    interpolation = config["interpolation"] if config["interpolation"] in {"bilinear", "bicubic"} else "bicubic"
    return config["mean"], config["std"], input_px, interpolation


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]


@torch.inference_mode()
def _width(module: nn.Module, name: str, image_px: int) -> int:
    try:
        return module(torch.zeros(1, 3, image_px, image_px)).shape[1]
    except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
        how = f" with pooling {module.pooling!r}" if module.pooling != "model" else ""
        raise InputError(f"encoder {name!r}{how} does not take tiles of {image_px} px: {error}") from error

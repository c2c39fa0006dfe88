"""The training loop: one readable epoch loop for every torch model, resumable to the same bits.

Every random choice of an epoch comes from (seed, epoch): the order of the rows from one generator, dropout from
torch's global one, re-seeded at the start of the epoch. A checkpoint after each epoch therefore needs no generator
state, and a run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from histofuse.io import InputError, atomic, progress
from histofuse.training.dataset import Split

SMALLEST_BATCH = 8  # a shorter last batch is left out: its risk sets say next to nothing


@dataclass(frozen=True)
class Settings:
    """The `training` part of a model entry.

    batch_size: rows per step, or "full" for whole-cohort risk sets. schedule: "constant", "linear" (Pathomic
    Fusion's: factor 1 − (epoch + 1)/(epochs + 1)) or "cosine" (to 0), stepped per epoch. l1: weight of Σ|w| over
    all parameters. clip_norm: of the gradient, None for none. select: "last" epoch, or the best on the validation
    part by `criterion` ("validation", strictly better, so the earliest best one).
    """

    epochs: int
    lr: float
    batch_size: int | str = 64
    optimiser: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "linear"
    l1: float = 0.0
    clip_norm: float | None = None
    select: str = "last"

    def lr_factor(self, epoch: int) -> float:
        if self.schedule == "linear":
            return 1 - (epoch + 1) / (self.epochs + 1)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return 1.0

    def optimiser_for(self, parameters) -> torch.optim.Optimizer:
        if self.optimiser == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=self.betas[0], weight_decay=self.weight_decay)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimiser]
        return kind(parameters, lr=self.lr, betas=tuple(self.betas), weight_decay=self.weight_decay)


def choose_device() -> torch.device:
    """The accelerator that is there, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic() -> None:
    """Deterministic kernels: bit for bit on a CPU with a given number of threads; on a GPU as far as they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


class Batches:
    """Rows of a split as model inputs on a device: tabular blocks are held there, bags are read from the map."""

    def __init__(self, split: Split, device: torch.device):
        self.split = split
        self.device = device
        self.blocks = {name: torch.from_numpy(values).to(device) for name, values in split.blocks.items()}

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        """{block: [batch, feature]}, and with tiles {"tiles": [batch, tile, width], "tiles_count": [batch, tile]}."""
        index = torch.from_numpy(rows).to(self.device)
        batch = {name: values[index] for name, values in self.blocks.items()}
        return batch | self._bags(rows) if self.split.tiles else batch

    def _bags(self, rows: np.ndarray) -> dict[str, Tensor]:
        store, slides = self.split.tiles, self.split.rows["slide_id"].to_numpy()[rows]
        bags = [store.features(slide) for slide in slides]
        longest = max(map(len, bags))
        tiles = np.zeros((len(rows), longest, store.width), dtype=np.float32)
        count = np.zeros((len(rows), longest), dtype=np.float32)
        for k, (slide, features) in enumerate(zip(slides, bags, strict=True)):
            tiles[k, : len(features)] = features
            count[k, : len(features)] = store.count(slide)
        if self.split.tile_scale is not None:
            mean, sd = self.split.tile_scale
            tiles -= mean.astype(np.float32)
            tiles /= np.maximum(sd, 1e-6).astype(np.float32)
            tiles *= (count > 0)[:, :, None]
        return {
            "tiles": torch.from_numpy(tiles).to(self.device),
            "tiles_count": torch.from_numpy(count).to(self.device),
        }


def fit(
    build: Callable[[], nn.Module],
    split: Split,
    loss: Callable[[Tensor, np.ndarray], Tensor],
    criterion: Callable[[np.ndarray, np.ndarray], float],
    settings: Settings,
    seed: int,
    checkpoint: Path,
    digest: str,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train on the training part; the test part is never touched.

    Args:
        build: makes the model (its initialisation is seeded here).
        loss: (outputs [batch, …], row numbers) → scalar.
        criterion: (outputs of the validation part [row, …], row numbers) → figure to maximise.
        checkpoint: where the state after each epoch is kept; one with another `digest` (other data, entry or code)
            is not continued.
    Returns: the trained model and its history (`epoch, lr, loss, val_metric, seconds`).
    """
    make_deterministic()
    device = choose_device()
    train, val = split.part("train"), split.part("val")
    if settings.select == "validation" and not len(val):
        raise InputError("training: select: validation, but the protocol has no validation part; choose last")
    torch.manual_seed(seed)
    model = build().to(device)
    optimiser = settings.optimiser_for(model.parameters())
    batches = Batches(split, device)
    history, best, first = _resume(checkpoint, digest, model, optimiser)
    for epoch in progress(range(first, settings.epochs), "epochs"):
        start = time.perf_counter()
        lr = settings.lr * settings.lr_factor(epoch)
        for group in optimiser.param_groups:
            group["lr"] = lr
        torch.manual_seed(seed * 100_003 + epoch)
        model.train()
        total = torch.zeros((), device=device)
        for rows in _batches_of(train, settings.batch_size, seed, epoch):
            value = loss(model(batches(rows)), rows)
            if settings.l1:
                value = value + settings.l1 * sum(parameter.abs().sum() for parameter in model.parameters())
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimiser.step()
            total += value.detach() * len(rows)
        mean_loss = float(total) / len(train)
        if not np.isfinite(mean_loss):
            raise InputError(
                f"epoch {epoch}: the loss is {mean_loss}; lower training: lr ({settings.lr}) or set clip_norm"
            )
        metric = float("nan")
        if settings.select == "validation":
            metric = float(criterion(predict(model, batches, val), val))
            if best is None or metric > best["metric"]:
                best = {
                    "metric": metric,
                    "state": {k: v.detach().clone() for k, v in model.state_dict().items()},
                }
        history.append(
            {
                "epoch": epoch,
                "lr": lr,
                "loss": mean_loss,
                "val_metric": metric,
                "seconds": time.perf_counter() - start,
            }
        )
        _save(checkpoint, digest, model, optimiser, history, best)
    if settings.select == "validation":
        model.load_state_dict(best["state"])
    return model, pd.DataFrame(history)


@torch.inference_mode()
def predict(model: nn.Module, batches: Batches, rows: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Outputs [row, output] as float64, in evaluation mode and in a fixed order."""
    model.eval()
    parts = [model(batches(rows[start : start + batch_size])) for start in range(0, len(rows), batch_size)]
    return torch.cat(parts).double().cpu().numpy()


def _batches_of(rows: np.ndarray, size: int | str, seed: int, epoch: int) -> Iterator[np.ndarray]:
    if size == "full":
        yield rows
        return
    shuffled = np.random.default_rng((seed, epoch)).permutation(rows)
    for start in range(0, len(shuffled), size):
        batch = shuffled[start : start + size]
        if start == 0 or len(batch) >= min(size, SMALLEST_BATCH):
            yield batch


def _save(path: Path, digest: str, model, optimiser, history: list[dict], best: dict | None) -> None:
    state = {"digest": digest, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
    with atomic(path) as temporary:
        torch.save(state | {"history": history, "best": best}, temporary)


def _resume(path: Path, digest: str, model: nn.Module, optimiser) -> tuple[list[dict], dict | None, int]:
    """Load the last checkpoint into the model and the optimiser: (history, best so far, next epoch)."""
    if not path.is_file():
        return [], None, 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError) as error:
        print(f"{path}: not readable ({error}); starting from the first epoch", flush=True)
        return [], None, 0
    if state["digest"] != digest:
        print(f"{path}: made with other data, settings or code; starting from the first epoch", flush=True)
        return [], None, 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    print(f"{path}: going on after epoch {state['history'][-1]['epoch']}", flush=True)
    return state["history"], state["best"], len(state["history"])

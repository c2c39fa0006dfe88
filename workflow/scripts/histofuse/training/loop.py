"""The training loop: one readable epoch loop for every torch model, resumable to the same bits.

Every random choice of an epoch comes from (seed, epoch): the order of the rows and what becomes of images from
generators of their own, dropout from torch's global one, re-seeded at the start of the epoch. A checkpoint after an
epoch therefore needs no generator state, and a run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from histofuse.io import InputError, atomic, progress
from histofuse.models.output import Output, total_of
from histofuse.training.augment import to_device
from histofuse.training.batches import IMAGES_PER_PREDICTION, Batches, batches_of
from histofuse.training.dataset import Split
from histofuse.training.modulation import Modulation

# Between two checkpoints lies this many times the time that the last one took to write: a large model is not kept
# waiting by its own copies, a killed run loses little.
CHECKPOINT_PAUSE = 1


@dataclass(frozen=True)
class Settings:
    """The `training` part of a model entry.

    batch_size: rows per step, or "full" for whole-cohort risk sets. unique_cases: a batch holds one row of a case at
    most. optimiser: "adam", "adamw", "sgd" (momentum: the first of `betas`) or "adagrad" (accumulators begin at 0.1).
    schedule: "constant", "linear" (Pathomic Fusion's: factor 1 − (epoch + 1)/(epochs + 1)), "cosine" (to 0) or
    "exponential" (`decay` to the power of the epoch), stepped per epoch. precision: of the model's arithmetic in
    training, "float32" or "bfloat16" where that is safe (autocast). l1: weight of Σ|w| over all trained parameters.
    clip_norm: of the gradient, None for none. select: "last" epoch, or the best on the validation
    part by `criterion` ("validation", strictly better, so the earliest best one).

    Of a model with `branches()`: branch_lr: {branch: its learning rate} instead of `lr`. frozen: {branch: the first
    epochs in which it is not trained}. l1_branch: the one that `l1` is for. modulation: options of
    `modulation.Modulation`; weight decay is then decoupled for every optimiser.
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
    unique_cases: bool = False
    decay: float = 0.95
    precision: str = "float32"
    branch_lr: dict[str, float] | None = None
    frozen: dict[str, int] | None = None
    l1_branch: str | None = None
    modulation: dict | None = None

    @property
    def rule(self) -> str | None:
        """Of the modulation's scores, None without a modulation."""
        return None if self.modulation is None else self.modulation.get("rule", "softmax_sum")

    def lr_factor(self, epoch: int) -> float:
        if self.schedule == "linear":
            return 1 - (epoch + 1) / (self.epochs + 1)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        if self.schedule == "exponential":
            return self.decay**epoch
        return 1.0

    def optimiser_for(self, groups: list[dict]) -> torch.optim.Optimizer:
        """Groups that bear their learning rate. A modulation changes rates on the device, as only fused ones allow."""
        modulated = {} if self.modulation is None else {"weight_decay": 0.0, "fused": True}
        options = {"lr": self.lr, "weight_decay": self.weight_decay} | modulated
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=self.betas[0], **options)
        if self.optimiser == "adagrad":
            return torch.optim.Adagrad(groups, initial_accumulator_value=0.1, **options)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimiser]
        return kind(groups, betas=tuple(self.betas), **options)


def choose_device() -> torch.device:
    """The accelerator that is there, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic() -> None:
    """Deterministic kernels: bit for bit on a CPU with a given number of threads; on a GPU as far as they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def fit(
    build: Callable[[], nn.Module],
    split: Split,
    loss: Callable[[Tensor | Output, Tensor], Tensor | tuple[Tensor, Tensor]],
    criterion: Callable[[np.ndarray, np.ndarray], float],
    settings: Settings,
    seed: int,
    checkpoint: Path,
    digest: str,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train on the training part; the test part is never touched.

    Args:
        build: makes the model (its initialisation is seeded here).
        loss: (outputs [batch, …], row numbers) → scalar; with a modulation (scalar, scores of the two branches).
        criterion: (outputs of the validation part [row, …], row numbers) → figure to maximise.
        checkpoint: where the state after one of the last epochs is kept; one with another `digest` (other data, entry
            or code) is not continued.
    Returns: the trained model and its history (`epoch, lr, loss, val_metric, seconds`; with a modulation what
        `Modulation.end_epoch` says, and `c_` of each branch: the criterion of its part on the training part).
    """
    make_deterministic()
    device = choose_device()
    train, val = split.part("train"), split.part("val")
    if settings.select == "validation" and not len(val):
        raise InputError("training: select: validation, but the protocol has no validation part; choose last")
    torch.manual_seed(seed)
    model = build().to(device)
    branches = model.branches() if hasattr(model, "branches") else {}
    optimiser = settings.optimiser_for(_groups(model, branches, settings))
    frozen = _frozen(branches, settings)
    modulation = _modulation(branches, settings)
    l1_of = branches[settings.l1_branch] if settings.l1_branch else [p for p in model.parameters() if p.requires_grad]
    batches = Batches(split, device)
    cases = split.rows["case_id"].to_numpy()[train] if settings.unique_cases else None
    saved, saving = time.perf_counter(), 0.0
    history, best, first = _resume(checkpoint, digest, model, optimiser, modulation)
    for epoch in progress(range(first, settings.epochs), "epochs"):
        start = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * settings.lr_factor(epoch)
        for parameter, epochs in frozen:
            parameter.requires_grad_(epoch >= epochs)
        if modulation is not None:
            modulation.start_epoch(epoch, optimiser)
        torch.manual_seed(seed * 100_003 + epoch)
        batches.start_epoch(seed, epoch)
        model.train()
        total = torch.zeros((), device=device)
        for rows in batches_of(train, settings.batch_size, seed, epoch, cases):
            index = to_device(rows, device)
            batch = batches(rows, index)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                outputs = model(batch)
            if modulation is not None and not isinstance(outputs, Output):
                name = type(model).__name__
                raise InputError(f"training: modulation: the output of {name} is no sum of branches; leave the key out")
            value = loss(_in_float32(outputs), index)
            if modulation is not None:
                value, scores = value
            if settings.l1:
                value = value + settings.l1 * sum(parameter.abs().sum() for parameter in l1_of)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            if modulation is not None:
                modulation.before_step(scores)
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
                "lr": settings.lr * settings.lr_factor(epoch),
                "loss": mean_loss,
                "val_metric": metric,
                **_of_branches(modulation, model, batches, train, criterion),
                "seconds": time.perf_counter() - start,
            }
        )
        now = time.perf_counter()
        if now - saved >= CHECKPOINT_PAUSE * saving:
            _save(checkpoint, digest, model, optimiser, history, best, modulation)
            saved = time.perf_counter()
            saving = saved - now
    if settings.select == "validation":
        model.load_state_dict(best["state"])
    return model, pd.DataFrame(history)


@torch.inference_mode()
def predict(model: nn.Module, batches: Batches, rows: np.ndarray) -> np.ndarray:
    """Outputs [row, output] as float64, in evaluation mode and in a fixed order.

    With regions [row · crop, output]: the outputs of all fixed crops of the first row, then of the second, ….
    """
    model.eval()
    parts = [total_of(model(batches.to_predict(some))) for some in _in_turn(rows, batches.views)]
    return torch.cat(parts).double().cpu().numpy()


@torch.inference_mode()
def predict_parts(model: nn.Module, batches: Batches, rows: np.ndarray) -> dict[str, np.ndarray]:
    """{branch: outputs [row, output] as float64} of a model that returns `Output`, in evaluation mode.

    Of a region the middle one of its fixed crops is taken alone: this is asked for after every epoch.
    """
    model.eval()
    outputs = [model(batches.to_predict(some, middle=True)).parts for some in _in_turn(rows, 1)]
    return {name: torch.cat([parts[name] for parts in outputs]).double().cpu().numpy() for name in outputs[0]}


def _in_turn(rows: np.ndarray, views: int) -> list[np.ndarray]:
    size = max(1, IMAGES_PER_PREDICTION // views)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _in_float32(outputs: Tensor | Output) -> Tensor | Output:
    """What autocast left in half precision, for the loss."""
    if isinstance(outputs, Output):
        return Output(outputs.total.float(), {name: part.float() for name, part in outputs.parts.items()})
    return outputs.float()


def _groups(model: nn.Module, branches: dict[str, list[nn.Parameter]], settings: Settings) -> list[dict]:
    """Parameter groups: one per branch, under its name, and one of all the rest (branch "")."""
    asked = {"branch_lr": settings.branch_lr or {}, "frozen": settings.frozen or {}, "l1_branch": [settings.l1_branch]}
    for key, names in asked.items():
        for name in names:
            if name is not None and name not in branches:
                known = f"has {', '.join(branches)}" if branches else "has none"
                raise InputError(f"training: {key}: the model has no branch {name!r}; it {known}")
    of_branches = {id(parameter) for parameters in branches.values() for parameter in parameters}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in of_branches]
    rates = dict.fromkeys(branches, settings.lr) | (settings.branch_lr or {})
    groups = [{"params": list(branches[name]), "branch": name, "initial_lr": rates[name]} for name in branches]
    return [*groups, {"params": rest, "branch": "", "initial_lr": settings.lr}]


def _frozen(branches: dict[str, list[nn.Parameter]], settings: Settings) -> list[tuple[nn.Parameter, int]]:
    """Parameters that wait, and for how many epochs; those that the model itself never trains are not among them."""
    return [
        (parameter, epochs)
        for name, epochs in (settings.frozen or {}).items()
        for parameter in branches[name]
        if parameter.requires_grad
    ]


def _modulation(branches: dict[str, list[nn.Parameter]], settings: Settings) -> Modulation | None:
    if settings.modulation is None:
        return None
    if settings.optimiser == "adagrad":
        raise InputError("training: modulation: is made for the optimisers sgd, adam and adamw, not for adagrad")
    return Modulation(branches, **settings.modulation, weight_decay=settings.weight_decay)


def _of_branches(
    modulation: Modulation | None, model: nn.Module, batches: Batches, train: np.ndarray, criterion: Callable
) -> dict:
    """What the history says of an epoch's branches."""
    if modulation is None:
        return {}
    log = modulation.end_epoch()
    parts = predict_parts(model, batches, train)
    return log | {f"c_{name}": float(criterion(outputs, train)) for name, outputs in parts.items()}


def _save(
    path: Path, digest: str, model, optimiser, history: list[dict], best: dict | None, modulation: Modulation | None
) -> None:
    state = {"digest": digest, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
    state["modulation"] = None if modulation is None else modulation.state()
    with atomic(path) as temporary:
        torch.save(state | {"history": history, "best": best}, temporary)


def _resume(
    path: Path, digest: str, model: nn.Module, optimiser, modulation: Modulation | None
) -> tuple[list[dict], dict | None, int]:
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
    if modulation is not None:
        modulation.load(state["modulation"])
    print(f"{path}: going on after epoch {state['history'][-1]['epoch']}", flush=True)
    return state["history"], state["best"], len(state["history"])

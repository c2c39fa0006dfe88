"""The training loop: one readable epoch loop for every torch model, resumable to the same bits.

Every random choice of an epoch comes from (seed, epoch): the order of the rows and what becomes of images from
generators of their own, dropout from torch's global one, re-seeded at the start of the epoch. A checkpoint after an
epoch therefore needs no generator state, and a run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from histofuse.evaluation.undefined import Undefined
from histofuse.io import InputError, atomic, progress
from histofuse.models.output import Output
from histofuse.training.augment import to_device
from histofuse.training.balance import Balance
from histofuse.training.batches import Batches, batches_of
from histofuse.training.dataset import Split
from histofuse.training.modulation import Interface, make_modulation
from histofuse.training.predict import predict, predict_parts
from histofuse.training.settings import Settings

SHORTEST_PAUSE = 0.5  # seconds from one checkpoint to the next


class DivergedError(InputError):
    """The loss, or what a trained model predicts, is not a finite number."""


def choose_device() -> torch.device:
    """The accelerator that is there, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic() -> None:
    """Deterministic kernels: bit for bit on a CPU with a given number of threads; on a GPU as far as they exist.

    An operation that has none runs all the same, and warns in the log.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
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
    Returns: the trained model and its history (`epoch, lr, loss, val_metric, seconds`; `loss_` of each loss of the
        model's own; with a modulation what its `end_epoch` says, and under GradMod `c_` of each branch: the criterion
        of its part on the training part).
    """
    make_deterministic()
    device = choose_device()
    train, val = split.part("train"), split.part("val")
    if settings.select == "validation" and not len(val):
        raise InputError("training: select: validation, but the protocol has no validation part; choose last")
    if settings.select == "validation" and settings.average > 1:
        raise InputError("training: average: is of the last epochs; it does not go with select: validation")
    if settings.warmup_epochs and settings.balances:
        raise InputError("training: warmup_epochs: a modulation of kind balance sets rates of its own; leave one out")
    torch.manual_seed(seed)
    model = build().to(device)
    branches = model.branches() if hasattr(model, "branches") else {}
    optimiser = settings.optimiser_for(_groups(model, branches, settings))
    frozen = _frozen(branches, settings)
    modulation = make_modulation(settings.modulation, model, branches, settings.optimiser, settings.weight_decay)
    l1_of = branches[settings.l1_branch] if settings.l1_branch else [p for p in model.parameters() if p.requires_grad]
    batches = Batches(split, device)
    cases = split.rows["case_id"].to_numpy()[train] if settings.unique_cases else None
    saved, pause = time.perf_counter(), 0.0
    history, kept, first = _resume(checkpoint, digest, model, optimiser, modulation)
    for epoch in progress(range(first, settings.epochs), "epochs"):
        start = time.perf_counter()
        _set_rates(optimiser, settings.lr_factor(epoch))
        for parameter, epochs in frozen:
            parameter.requires_grad_(epoch >= epochs)
        if modulation is not None:
            modulation.start_epoch(epoch, optimiser)
        torch.manual_seed(seed * 100_003 + epoch)
        batches.start_epoch(seed, epoch)
        model.train()
        sums: dict[str, Tensor] = {}
        seen = 0  # an epoch may leave rows out
        of_epoch = list(batches_of(train, settings.batch_size, seed, epoch, cases))
        for step, rows in enumerate(of_epoch):
            if settings.warmup_epochs:
                _set_rates(optimiser, settings.lr_factor(epoch + (step + 0.5) / len(of_epoch)))
            index = to_device(rows, device)
            batch = batches(rows, index)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                outputs = model(batch)
            if modulation is not None:
                _check_parts(model, outputs)
            value = loss(outputs.float(), index)
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
            own = outputs.losses if isinstance(outputs, Output) else {}
            for name, term in {"loss": value, **{f"loss_{name}": term for name, term in own.items()}}.items():
                sums[name] = sums.get(name, 0) + term.detach() * len(rows)
            seen += len(rows)
        means = {name: float(total) / seen for name, total in sums.items()}
        mean_loss = means["loss"]
        if not np.isfinite(mean_loss):
            raise DivergedError(
                f"epoch {epoch}: the loss is {mean_loss}; lower training: lr ({settings.lr}) or set clip_norm"
            )
        metric = float("nan")
        if settings.select == "validation":
            metric = _validated(criterion, predict(model, batches, val), val)
            if kept is None or metric > kept["metric"]:
                kept = {"metric": metric, "state": _copy(model)}
        elif settings.average > 1 and epoch >= settings.epochs - settings.average:
            kept = _averaged(kept, model)
        history.append(
            {
                "epoch": epoch,
                "lr": settings.lr * settings.lr_factor(epoch),
                **means,
                "val_metric": metric,
                **_of_branches(modulation, model, batches, train, criterion),
                "seconds": time.perf_counter() - start,
            }
        )
        now = time.perf_counter()
        if now - saved >= pause:
            _save(checkpoint, digest, model, optimiser, history, kept, modulation)
            saved = time.perf_counter()
            pause = _pause(saved - now)
    if kept is not None:
        model.load_state_dict(kept["state"])
    return model, pd.DataFrame(history)


def _set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _check_parts(model: nn.Module, outputs: Tensor | Output) -> None:
    supervised = outputs.supervised().values() if isinstance(outputs, Output) else [None]
    if any(output is None or not output.parts for output in supervised):
        name = type(model).__name__
        raise InputError(f"training: modulation: the output of {name} is no sum of branches; leave the key out")


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


def _averaged(kept: dict | None, model: nn.Module) -> dict:
    """The mean of the weights since the first call, with how many epochs it is of; whole numbers are the last ones."""
    state, n = _copy(model), 1 if kept is None else kept["epochs"] + 1
    for name, values in state.items():
        if n > 1 and values.is_floating_point():
            values.lerp_(kept["state"][name].to(values), 1 - 1 / n)
    return {"epochs": n, "state": state}


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


def _of_branches(
    modulation: Interface | None, model: nn.Module, batches: Batches, train: np.ndarray, criterion: Callable
) -> dict:
    """What the history says of an epoch's branches."""
    if modulation is None:
        return {}
    log = modulation.end_epoch()
    if not isinstance(modulation, Balance):
        return log
    parts = predict_parts(model, batches, train, middle=True)
    return log | {f"c_{name}": _of_training(criterion, outputs, train) for name, outputs in parts.items()}


def _validated(criterion, outputs: np.ndarray, val: np.ndarray) -> float:
    """The figure by which the epoch is chosen."""
    _refuse_infinite(outputs)
    try:
        return float(criterion(outputs, val))
    except Undefined as reason:
        raise InputError(
            f"training: select: validation: the validation part cannot be scored ({reason}); give the protocol a "
            "larger val, or choose select: last"
        ) from reason


def _of_training(criterion, outputs: np.ndarray, train: np.ndarray) -> float:
    """The figure of a branch on the training part, for the history alone: NaN where there is none."""
    _refuse_infinite(outputs)
    try:
        return float(criterion(outputs, train))
    except Undefined:
        return float("nan")


def _refuse_infinite(outputs: np.ndarray) -> None:
    if not np.isfinite(outputs).all():
        raise DivergedError("an output is not a finite number; lower training: lr or set clip_norm")


def _pause(writing: float) -> float:
    """Seconds until the next checkpoint: as many as the last took to write, so that neither a large model nor one
    whose epochs last milliseconds is kept waiting by its own copies, and a killed run loses little."""
    return max(writing, SHORTEST_PAUSE)


def _save(
    path: Path, digest: str, model, optimiser, history: list[dict], kept: dict | None, modulation: Interface | None
) -> None:
    state = {"digest": digest, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
    state["modulation"] = None if modulation is None else modulation.state()
    with atomic(path) as temporary:
        torch.save(state | {"history": history, "kept": kept}, temporary)


def _resume(
    path: Path, digest: str, model: nn.Module, optimiser, modulation: Interface | None
) -> tuple[list[dict], dict | None, int]:
    """Load the last checkpoint into the model and the optimiser: (history, weights kept so far, next epoch)."""
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
    return state["history"], state["kept"], len(state["history"])

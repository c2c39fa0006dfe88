"""MLP-A of Path-GPTOmic: a small network on frozen embeddings that is taught the cell types of mixtures, so that
mixtures lie between their parts; its last hidden layer is the smoothed embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histofuse.io import InputError

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = ("mse_logits", "mse_softmax", "soft_cross_entropy")
HIDDEN = 128
_LAYERS = ("layers.0", "layers.1", "layers.2", "classifier")
_HISTORY = 100  # rows of the history, about
_CHUNK = 8192  # rows smoothed at once


def initial_weights(width: int, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The network before training, {name: float32}: three layers width → 128 → 128 → 128 and a classifier 128 → class.

    PyTorch's usual start for linear layers, U(−1/√fan_in, 1/√fan_in), from a generator of its own. Used untrained it
    is the control "random MLP-A".
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, fan_in, fan_out in zip(_LAYERS, (width, HIDDEN, HIDDEN, HIDDEN), (HIDDEN, HIDDEN, HIDDEN, classes)):
        for part, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
            draw = torch.rand(shape, generator=generator)
            weights[f"{name}.{part}"] = ((2 * draw - 1) / math.sqrt(fan_in)).numpy()
    return weights


def fit(
    embeddings: np.ndarray,
    targets: np.ndarray,
    *,
    loss: str = "mse_logits",
    passes: int = 1,
    lr: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    threads: int = 1,
    mix_embeddings: bool = False,
    standardise: bool = False,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Train the network by Adam with a cosine schedule to 0.

    Args:
        embeddings: [row, width] of unit norm, one per mixture.
        targets: [row, class] shares of the classes.
        loss: see `losses`.
        passes: over the bank. One pass sees every mixture once, which is training on fresh mixtures; more reuse them.
        seed: of the start, the order and the mixing of embeddings.
        threads: of torch; results are equal to the bit for the same number.
        mix_embeddings: the control in which not cells but their embeddings are mixed: each row, which then should be
            a single cell, with another random row, λ ~ U(0, 1), anew in every pass.
        standardise: train on z-scores over these rows instead of embeddings times √width, then fold mean and standard
            deviation into the first layer, so that the network stays the same. It helps where embeddings differ
            little from their mean (cosines near 1).

    Returns the weights, {name: float32}, and the history `step, mixtures, lr, loss` (mean loss since the row before).
    """
    import torch

    embeddings, targets = _check_rows(embeddings, targets)
    _check_loss(loss)
    if passes < 1 or batch_size < 1 or not lr > 0:
        raise InputError(f"smoothing: passes {passes}, batch_size {batch_size} and lr {lr} must be above 0")
    mean, spread = embeddings.mean(axis=0, dtype=np.float64), embeddings.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 1e-6, spread, 1) * math.sqrt(embeddings.shape[1])  # the network multiplies by √width
    if standardise:
        embeddings = ((embeddings - mean) / scale).astype(np.float32)
    with _threads(threads):
        start = initial_weights(embeddings.shape[1], targets.shape[1], seed)
        weights = {name: torch.from_numpy(value).requires_grad_() for name, value in start.items()}
        optimiser = torch.optim.Adam(weights.values(), lr=lr, fused=True)
        inputs, shares = torch.from_numpy(embeddings), torch.from_numpy(targets)
        steps = passes * math.ceil(len(inputs) / batch_size)
        every = max(1, steps // _HISTORY)
        history, total, since, step, seen = [], torch.zeros(()), 0, 0, 0
        for number in range(passes):
            generator = torch.Generator().manual_seed(seed * 100_003 + number + 1)
            x, y = _shuffled(inputs, shares, generator, mix_embeddings)
            for one, share in zip(x.split(batch_size), y.split(batch_size)):
                rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                optimiser.param_groups[0]["lr"] = rate
                value = _loss(_logits(weights, _hidden(weights, one)), share, loss)
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                total += value.detach() * len(one)
                since, seen, step = since + len(one), seen + len(one), step + 1
                if step % every == 0 or step == steps:
                    history.append({"step": step, "mixtures": seen, "lr": rate, "loss": float(total) / since})
                    total, since = torch.zeros(()), 0
        found = {name: value.detach().numpy().copy() for name, value in weights.items()}
    if not all(np.isfinite(value).all() for value in found.values()):
        raise InputError(f"smoothing: the training diverged at lr {lr}; choose a smaller one")
    if standardise:
        first = found["layers.0.weight"] / scale
        found["layers.0.weight"] = first.astype(np.float32)
        found["layers.0.bias"] -= (first @ mean * math.sqrt(len(mean))).astype(np.float32)
    return found, pd.DataFrame(history)


def smooth(weights: Mapping[str, np.ndarray], embeddings: np.ndarray) -> np.ndarray:
    """The smoothed embedding, the output of the third layer before the classifier: float32 [row, 128]."""
    return _outputs(weights, embeddings)[0]


def predict(weights: Mapping[str, np.ndarray], embeddings: np.ndarray, loss: str = "mse_logits") -> np.ndarray:
    """The shares of the classes, float32 [row, class], rows sum to 1.

    After training by `mse_logits` the outputs themselves estimate shares: negative ones become 0 and the rest is
    divided by its sum (equal shares where nothing is above 0). After the other losses it is their softmax.
    """
    return _shares(_outputs(weights, embeddings)[1], loss).astype(np.float32)


def losses(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The three losses of outputs [row, class], each on the outputs as they are.

    mse_logits: mean over rows and classes of (output − share)². mse_softmax: the same of the outputs' softmax.
    soft_cross_entropy: mean over rows of −Σ share · log softmax.
    """
    import torch

    outputs, shares = (
        torch.from_numpy(np.asarray(logits, np.float64)),
        torch.from_numpy(np.asarray(targets, np.float64)),
    )
    return {name: _loss(outputs, shares, name).item() for name in LOSSES}


def held_out_scores(
    weights: Mapping[str, np.ndarray],
    mixed: tuple[np.ndarray, np.ndarray],
    single: tuple[np.ndarray, np.ndarray],
    training_targets: np.ndarray,
    *,
    loss: str = "mse_logits",
) -> dict:
    """How well the network tells the cells of held-out donors.

    Args:
        mixed: embeddings [row, width] and targets [row, class] of mixtures.
        single: the same of single cells; a cell's class is the largest target.
        training_targets: [row, class]; their mean is what chance predicts.
        loss: that the network was trained by; it decides how shares are read (`predict`).

    Returns the three `losses`; `mean_absolute_error` of the shares; `pearson`, the mean over classes of the
    correlation of predicted and true shares over mixtures (None where no class has one), and `pearson_pooled`, over
    all shares at once; `accuracy` on single cells and `balanced_accuracy`, the mean of the classes' own; all but the
    correlations also as `chance_…`, for the mean training shares as the prediction whatever the input; and
    `confusion` [true, predicted] in cells.
    """
    embeddings, targets = _check_rows(*mixed)
    cells, of_cells = _check_rows(*single)
    logits = _outputs(weights, embeddings)[1]
    prior = np.asarray(training_targets, np.float64).mean(axis=0)
    if not logits.shape[1] == targets.shape[1] == of_cells.shape[1] == len(prior):
        raise InputError(
            f"smoothing: the weights have {logits.shape[1]} classes, mixtures {targets.shape[1]}, "
            f"single cells {of_cells.shape[1]}, the training {len(prior)}"
        )
    shares, truth = _shares(logits, loss), targets.astype(np.float64)
    by_class = [_pearson(shares[:, k], truth[:, k]) for k in range(len(prior))]
    defined = [value for value in by_class if value is not None]
    labels = of_cells.argmax(axis=1)
    confusion = np.zeros((len(prior), len(prior)), int)
    np.add.at(confusion, (labels, predict(weights, cells, loss).argmax(axis=1)), 1)
    of_class = confusion.sum(axis=1)
    with np.errstate(divide="ignore"):  # a class that training never saw
        chance_cross_entropy = float(-(truth * np.where(truth > 0, np.log(prior), 0)).sum(axis=1).mean())
    chance_square = float(((prior - truth) ** 2).mean())
    return {
        **losses(logits, targets),
        "mean_absolute_error": float(np.abs(shares - truth).mean()),
        "pearson": float(np.mean(defined)) if defined else None,
        "pearson_pooled": _pearson(shares.ravel(), truth.ravel()),
        "accuracy": float(np.trace(confusion) / len(labels)),
        "balanced_accuracy": float((np.diag(confusion)[of_class > 0] / of_class[of_class > 0]).mean()),
        "chance_mse_logits": chance_square,
        "chance_mse_softmax": chance_square,
        "chance_soft_cross_entropy": chance_cross_entropy,
        "chance_mean_absolute_error": float(np.abs(prior - truth).mean()),
        "chance_accuracy": float((labels == prior.argmax()).mean()),
        "chance_balanced_accuracy": float(1 / (of_class > 0).sum()),
        "confusion": confusion.tolist(),
    }


def _hidden(weights: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
    """[row, width] of unit norm → [row, 128]. Scaled by √width first, so that inputs are of size 1; no ReLU last."""
    from torch.nn.functional import linear

    out = embeddings * math.sqrt(embeddings.shape[1])
    for name in _LAYERS[:2]:
        out = linear(out, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
    return linear(out, weights["layers.2.weight"], weights["layers.2.bias"])


def _logits(weights: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    from torch.nn.functional import linear

    return linear(hidden, weights["classifier.weight"], weights["classifier.bias"])


def _loss(logits: Tensor, shares: Tensor, loss: str) -> Tensor:
    if loss == "soft_cross_entropy":
        return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()
    predicted = logits if loss == "mse_logits" else logits.softmax(dim=1)
    return (predicted - shares).square().mean()


def _shuffled(inputs: Tensor, shares: Tensor, generator, mix: bool) -> tuple[Tensor, Tensor]:
    """The rows of one pass in a new order, with `mix` each mixed with another row of the bank."""
    import torch

    order = torch.randperm(len(inputs), generator=generator)
    x, y = inputs[order], shares[order]
    if not mix:
        return x, y
    other = torch.randint(len(inputs), (len(inputs),), generator=generator)
    weight = torch.rand((len(inputs), 1), generator=generator)
    return weight * x + (1 - weight) * inputs[other], weight * y + (1 - weight) * shares[other]


def _outputs(weights: Mapping[str, np.ndarray], embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed embeddings [row, 128] and the classifier's outputs [row, class], both float32."""
    import torch

    embeddings = _check_embeddings(embeddings)
    _check_weights(weights, embeddings.shape[1])
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in weights.items()}
    with torch.inference_mode():
        hidden = torch.cat([_hidden(tensors, part) for part in torch.from_numpy(embeddings).split(_CHUNK)])
        return hidden.numpy(), _logits(tensors, hidden).numpy()


def _shares(logits: np.ndarray, loss: str) -> np.ndarray:
    _check_loss(loss)
    logits = logits.astype(np.float64)
    if loss == "mse_logits":
        positive = np.maximum(logits, 0)
        total = positive.sum(axis=1, keepdims=True)
        return np.where(total > 0, positive / np.where(total > 0, total, 1), 1 / logits.shape[1])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's r; None where one of both does not vary."""
    one, other = one - one.mean(), other - other.mean()
    norm = math.sqrt((one @ one) * (other @ other))
    return float(one @ other / norm) if norm > 0 else None


@contextmanager
def _threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_embeddings(embeddings: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(embeddings, np.float32)
    if values.ndim != 2 or not len(values):
        raise InputError(f"smoothing: embeddings have the shape {values.shape}, not [row, width]")
    if not np.isfinite(values).all():
        raise InputError(f"smoothing: embedding {np.argwhere(~np.isfinite(values))[0][0]} is not finite")
    return values


def _check_rows(embeddings: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, shares = _check_embeddings(embeddings), np.ascontiguousarray(targets, np.float32)
    if shares.ndim != 2 or len(shares) != len(values):
        raise InputError(f"smoothing: {len(values)} embeddings, but targets of the shape {shares.shape}")
    if not (shares >= 0).all() or not np.allclose(shares.sum(axis=1), 1, atol=1e-4):
        raise InputError("smoothing: targets are shares of the classes: ≥ 0, with the sum 1 in every row")
    return values, shares


def _check_loss(loss: str) -> None:
    if loss not in LOSSES:
        raise InputError(f"smoothing: loss {loss!r} is not one of {', '.join(LOSSES)}")


def _check_weights(weights: Mapping[str, np.ndarray], width: int) -> None:
    expected = {f"{name}.{part}" for name in _LAYERS for part in ("weight", "bias")}
    if set(weights) != expected:
        raise InputError(
            f"smoothing: the weights lack {', '.join(sorted(expected - set(weights))) or 'nothing'} "
            f"and have {', '.join(sorted(set(weights) - expected)) or 'nothing'} too much; train again"
        )
    classes = weights["classifier.weight"].shape[0]
    fans = zip(_LAYERS, (width, HIDDEN, HIDDEN, HIDDEN), (HIDDEN, HIDDEN, HIDDEN, classes))
    for name, fan_in, fan_out in fans:
        for part, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
            if weights[f"{name}.{part}"].shape != shape:
                raise InputError(
                    f"smoothing: {name}.{part} has the shape {weights[f'{name}.{part}'].shape}, embeddings of width "
                    f"{width} need {shape}; was it trained on another embedding?"
                )

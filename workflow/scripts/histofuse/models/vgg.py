"""VGG: the convolutional stack (Simonyan and Zisserman, 2015) and Pathomic Fusion's image network on it.

Convolutions and normalisations have torchvision's names, so that its ImageNet files load
(`vgg19_bn-c79401a0.pth`; the classifier in them is left aside).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.checkpoint import COUNTER, check_fit, read_weights

VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions of each stage


class VGGFeatures(nn.Module):
    """Images [n, 3, px, px] → [n, channels · pooled²]: stages of 3×3 convolutions with ReLU, each halving the side.

    Args:
        stages: (channels, convolutions) of each; the default is VGG19's, 20.0 M parameters.
        pooled: the maps are averaged to this side, whatever the images' size.
        batch_norm: between convolution and ReLU.
        frozen: parameters are never trained (and no gradient is computed for them); needs a checkpoint.
        bn_mode: "eval" normalises by the stored statistics, also in training; "train" by the batch's, which moves the
            stored ones even under frozen parameters, as Pathomic Fusion runs it.
        checkpoint: file with the weights, as torchvision releases them; None for a random start.
    Raises InputError when the file does not fit, an option is unknown or a random start would stay frozen.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]] = VGG19,
        pooled: int = 7,
        batch_norm: bool = True,
        frozen: bool = False,
        bn_mode: str = "eval",
        checkpoint: str | Path | None = None,
    ):
        super().__init__()
        if bn_mode not in {"eval", "train"}:
            raise InputError(f"params: bn_mode: {bn_mode!r} is not one of eval, train")
        if frozen and checkpoint is None:
            raise InputError(
                "params: checkpoint: frozen convolutions need a file of weights (config/pretrained.tsv says where to "
                "get one); or train them from a random start: frozen: false"
            )
        layers, before = [], 3
        for channels, convolutions in stages:
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, channels, 3, padding=1)]
                layers += [nn.BatchNorm2d(channels)] if batch_norm else []
                layers += [nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pooled, self.frozen, self.bn_mode = pooled, frozen, bn_mode
        self.width = before * pooled**2
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        if checkpoint is not None:
            load_features(self, checkpoint)
        if frozen:
            self.features.requires_grad_(False)

    def train(self, mode: bool = True) -> VGGFeatures:
        super().train(mode)
        if self.bn_mode == "eval":
            for layer in self.features:
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return averaged_to(self.features(images), self.pooled).flatten(1)


class VGG(nn.Module):
    """Images [n, 3, px, px] → [n, hidden[-1]]: `VGGFeatures`, then linear layers with ReLU and dropout.

    At the defaults Pathomic Fusion's image network but its last unit: 26.8 M trained parameters behind a frozen
    VGG19-BN, 25,088 → 1024 → 1024 → 32.

    Args: hidden, dropout: of each linear layer. Others: of `VGGFeatures`.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (1024, 1024, 32),
        dropout: Sequence[float] = (0.25, 0.25, 0.05),
        frozen: bool = True,
        **features,
    ):
        super().__init__()
        if len(hidden) != len(dropout) or not hidden:
            raise InputError(f"params: hidden has {len(hidden)} layers and dropout {len(dropout)} figures")
        self.stack = VGGFeatures(frozen=frozen, **features)
        self.width = hidden[-1]
        self.layers = nn.Sequential()
        before = self.stack.width
        for width, drop in zip(hidden, dropout):
            self.layers.extend([nn.Linear(before, width), nn.ReLU(), nn.Dropout(drop)])
            before = width

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.stack(images))


def load_features(model: VGGFeatures, path: str | Path) -> None:
    """Put the convolutions and normalisations of a file into a model; its classifier is left aside.

    Raises InputError naming the file and the tensors that are missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    _, state = read_weights(path)
    state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    check_fit(state, wanted, path)
    model.load_state_dict(state, strict=False)  # but for the counters `check_fit` was the strict comparison


def averaged_to(maps: Tensor, side: int) -> Tensor:
    """Maps [n, channels, h, w] → [n, channels, side, side]: means over areas from ⌊i·h/side⌋ to ⌈(i+1)·h/side⌉.

    What `adaptive_avg_pool2d` does, as two products: its backward pass on a GPU is not the same from run to run.
    """
    if maps.shape[2:] == (side, side):
        return maps
    rows, columns = (_shares(length, side).to(maps) for length in maps.shape[2:])
    return rows @ maps @ columns.T


def _shares(length: int, parts: int) -> Tensor:
    """[parts, length]: each row has equal weights over its part's area."""
    shares = torch.zeros(parts, length)
    for i in range(parts):
        first, end = i * length // parts, -(-(i + 1) * length // parts)
        shares[i, first:end] = 1 / (end - first)
    return shares

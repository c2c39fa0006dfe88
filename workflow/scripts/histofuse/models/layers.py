"""Building blocks that more than one published system uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def init_self_normalising(module: nn.Module) -> None:
    """Weights ~ N(0, 1/fan_in), biases 0, as self-normalising networks ask (Klambauer et al., 2017)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)


class SelfNormalisingEncoder(nn.Sequential):
    """Linear, ELU and AlphaDropout per width: [batch, features] → [batch, widths[-1]].

    ELU stands where the theory has SELU: that is how Pathomic Fusion, and after it KS-Fusion, run it. Pathomic Fusion
    takes widths 64, 48, 32, 32 with dropout 0.25; KS-Fusion 64, 48, 32, 128 with 0.1 and a closing ReLU.
    """

    def __init__(self, features: int, widths: Sequence[int], dropout: float, final_relu: bool = False):
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(features, width), nn.ELU(), nn.AlphaDropout(dropout)]
            features = width
        if final_relu:
            layers.append(nn.ReLU())
        super().__init__(*layers)
        init_self_normalising(self)


class AttentionPooling(nn.Module):
    """Ungated attention pooling of a bag (Ilse et al., 2018): [batch, tile, width] → [batch, width].

    score = w · tanh(V x), a softmax over the tiles, the weighted mean. A bag is stored with each tile once and a
    count of how often the fixed-size bag repeats it; log(count) added to the score makes the softmax exactly that of
    the repeated bag, and a count of 0 makes padding vanish.
    """

    def __init__(self, width: int, hidden: int = 128):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)

    def attention(self, tiles: Tensor, count: Tensor) -> Tensor:
        """Weights [batch, tile]; each row sums to 1."""
        score = self.score(torch.tanh(self.hidden(tiles))).squeeze(-1)
        return torch.softmax(score + torch.log(count), dim=1)

    def forward(self, tiles: Tensor, count: Tensor) -> Tensor:
        return torch.einsum("bt,btw->bw", self.attention(tiles, count), tiles)


class GatedAttention(nn.Module):
    """Scores of gated attention (Ilse et al., 2018), before the softmax: w · (tanh(V x) ⊙ σ(U x)).

    [batch, token, width] → [batch, token].
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.hidden(tokens) * self.gate(tokens)).squeeze(-1)


def bounded_log_hazard(z: Tensor) -> Tensor:
    """Pathomic Fusion's output activation 6·sigmoid(z) − 3, a log hazard within ±3. It saturates into ties."""
    return 6 * torch.sigmoid(z) - 3

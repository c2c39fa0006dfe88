"""From the tokens of a slide to a few: clusters round density peaks, or attention of learned queries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from histofuse.io import InputError

SAME = 1e-6  # of the two squared lengths: what float32 leaves between two equal vectors


def squared_distances(points: Tensor) -> Tensor:
    """[point, width] → [point, point], divided by the width; exactly 0 between equal points and on the diagonal."""
    length = points.square().sum(1)
    lengths = length[:, None] + length
    squared = torch.addmm(lengths, points, points.T, alpha=-2)
    return squared.masked_fill_(squared <= SAME * lengths, 0).fill_diagonal_(0) / points.shape[1]


def density(squared: Tensor, neighbours: int) -> Tensor:
    """exp(−mean squared distance to the nearest points), the point itself counted among them: [point]."""
    nearest = squared.topk(min(neighbours, len(squared)), dim=1, largest=False).values
    return torch.exp(-nearest.mean(1))


def separation(squared: Tensor, density: Tensor) -> Tensor:
    """Distance to the nearest denser point, for the densest to the furthest: [point].

    Of equally dense points the earlier one counts as the denser. (The published code adds a little noise to the
    densities instead.) Otherwise all copies of a peak would be as far from the next as the first of them.
    """
    rank = torch.empty_like(density, dtype=torch.long)
    order = torch.argsort(density, descending=True, stable=True)
    rank[order] = torch.arange(len(order), device=order.device)
    nearest = squared.masked_fill(rank >= rank[:, None], torch.inf).amin(1)
    return torch.where(rank == 0, squared.amax(1), nearest).sqrt()


@torch.no_grad()
def density_peaks(tokens: Tensor, clusters: int, neighbours: int = 5) -> tuple[Tensor, Tensor]:
    """Density-peak clustering of each sample's tokens (Du et al., 2016, as in TCFormer, Zeng et al., 2022).

    [batch, token, width] → centres [batch, cluster], the tokens with the largest density × separation in that order,
    and the cluster of each token [batch, token], that of the nearest centre (of equally near ones the first). A centre
    belongs to its own cluster, so that none is empty. The distances of one sample are held at a time.

    Where each token is there `neighbours` times or more, as on a map that repeats the few tiles of a small slide, its
    nearest ones are its copies: all densities are 1, the first token is the first centre, and the second is the one
    furthest from all before it.
    """
    if clusters > tokens.shape[1]:
        raise InputError(f"params: tokens: {clusters} cannot be made of a bag of {tokens.shape[1]}; give a larger bag")
    centres, assigned = [], []
    with torch.autocast(tokens.device.type, enabled=False):
        for points in tokens.detach().float():
            squared = squared_distances(points)
            dense = density(squared, neighbours)
            score = dense * separation(squared, dense)
            centre = torch.argsort(score, descending=True, stable=True)[:clusters]
            cluster = squared[centre].argmin(0)
            cluster[centre] = torch.arange(clusters, device=cluster.device)
            centres.append(centre)
            assigned.append(cluster)
    return torch.stack(centres), torch.stack(assigned)


class DensityPeaks(nn.Module):
    """Informative token aggregation: weighted means of the clusters round density peaks.

    U = LayerNorm(tokens), importance exp(linear(U)); the merged token of a cluster is the mean of its U weighted by
    the importance. No gradient goes through the assignment. The clusters stand by density × separation: which of
    them is, say, the tumour is not settled.
    """

    def __init__(self, width: int, tokens: int = 2, neighbours: int = 5):
        super().__init__()
        self.tokens, self.neighbours = tokens, neighbours
        self.norm = nn.LayerNorm(width)
        self.importance = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, token, width] → [batch, merged, width] and the weights [batch, merged, token], rows summing to 1."""
        normed = self.norm(tokens)
        _, cluster = density_peaks(normed, self.tokens, self.neighbours)
        member = cluster[:, None] == torch.arange(self.tokens, device=cluster.device)[:, None]
        score = self.importance(normed).float().squeeze(-1)[:, None]
        weights = torch.softmax(score.masked_fill(~member, -torch.inf), dim=-1)
        return weights @ normed.float(), weights


class LearnedSeeds(nn.Module):
    """The same with learned queries in the place of clusters: token k is what query k attends to.

    Token 1 is then the same thing for all slides, which the order of clusters is not.
    """

    def __init__(self, width: int, tokens: int = 2):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.seeds = nn.Parameter(torch.randn(tokens, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, token, width] → [batch, seed, width] and the weights [batch, seed, token], rows summing to 1."""
        normed = self.norm(tokens)
        weights = torch.softmax((self.seeds @ normed.mT).float() / math.sqrt(normed.shape[-1]), dim=-1)
        return weights @ normed.float(), weights

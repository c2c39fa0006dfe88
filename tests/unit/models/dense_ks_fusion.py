"""KS-Fusion written out as published, on the parameters of a `KSFusion`: the reference of tests and benchmark.

The genes are copied to every place of the map, every place is embedded, convolutions with groups make queries, keys
and values, the MLP of the position bias runs for each pair of a place and a key, and attention is written out.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from histofuse.models.output import Output


def as_map(tokens):
    """[batch, place, channel] → [batch, channel, row, column]."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def dense_attention(module, query, keys):
    """(output [batch, place, width], points [batch · head, 2, K, K], weights [batch · head, place, key])."""
    heads, depth, channels = module.query.shape
    query, keys = as_map(query), as_map(keys)
    side, k, n = query.shape[-1], module.keys, len(query) * heads

    def project(weight, x):
        return F.conv2d(x, weight.reshape(heads * depth, channels, 1, 1), groups=heads)

    q = project(module.query, query)
    hidden = F.gelu(module.depthwise(q.reshape(n, depth, side, side)))
    offsets = module.stride * torch.tanh(F.conv2d(hidden, module.to_offset.weight[:, :, None, None]))
    row, column = torch.meshgrid(torch.arange(k), torch.arange(k), indexing="ij")
    points = offsets + torch.stack([column, row]).to(offsets)
    normal = (2 * points / (k - 1) - 1).permute(0, 2, 3, 1)
    maps = keys.reshape(n, channels, side, side)
    read = F.grid_sample(maps, normal, align_corners=module.align_corners).reshape(-1, heads * channels, k, k)
    q, keys, values = (
        x.reshape(n, depth, -1).transpose(1, 2) for x in (q, project(module.key, read), project(module.value, read))
    )
    line = torch.linspace(-1, 1, side).to(normal)
    row, column = torch.meshgrid(line, line, indexing="ij")
    place = torch.stack([column, row], dim=-1).reshape(-1, 1, 2)
    difference = place - normal.reshape(n, 1, k * k, 2)
    bias = module.bias(difference.sign() * torch.log(1 + difference.abs())).squeeze(-1)
    weights = torch.softmax(q @ keys.transpose(1, 2) / depth**0.5 + bias, dim=-1)
    mixed = F.dropout(weights, module.dropout, module.training) @ values
    mixed = mixed.transpose(1, 2).reshape(-1, heads * depth, side, side)
    out = F.conv2d(mixed, module.out.weight[:, :, None, None], module.out.bias)
    return out.flatten(2).transpose(1, 2), points, weights


def gram(vectors):
    q = vectors @ vectors.T
    return q / q.norm(dim=1, keepdim=True)


class DenseKSFusion(nn.Module):
    """What `model` computes, the slow way; Ge-Con of genes repeated over the map, on offsets by head or, with
    `published`, on points and with slides and heads confused."""

    def __init__(self, model, published=False):
        super().__init__()
        self.model, self.published = model, published

    def forward(self, batch):
        vectors, contrast = [], 0.0
        place = batch["tiles_place"].unsqueeze(-1).expand(-1, -1, batch["tiles"].shape[-1])
        tiles = torch.gather(batch["tiles"], 1, place)
        for name, branch in self.model.subspaces.items():
            patches = torch.relu(branch.embed(tiles))
            genes = branch.genes(batch[name]).unsqueeze(1).expand(-1, tiles.shape[1], -1)
            taught = branch.teacher(torch.cat([patches, genes], dim=-1))
            attended, points, _ = dense_attention(branch.attention, branch.norm_in(taught), branch.norm_in(patches))
            vectors.append(branch.pool(branch.norm_out(taught + attended).mean(1)))
            if self.training and self.model.gecon:
                contrast = contrast + self.model.gecon.alpha * self.contrast(genes, points)
        losses = {"gecon": contrast} if self.training and self.model.gecon else {}
        return Output(self.model.decoder(torch.cat(vectors, dim=1)), losses=losses)

    def contrast(self, genes, points):
        slides, k = len(genes), points.shape[-1]
        heads = len(points) // slides
        if self.published:
            blocks = points.reshape(heads, slides, -1)
        else:
            row, column = torch.meshgrid(torch.arange(k), torch.arange(k), indexing="ij")
            offsets = (points - torch.stack([column, row])).reshape(slides, heads, -1)
            blocks = [offsets[:, head] for head in range(heads)]
        of_points = sum(gram(block) for block in blocks) / heads
        return (gram(genes.reshape(slides, -1)) - of_points).square().sum() / slides

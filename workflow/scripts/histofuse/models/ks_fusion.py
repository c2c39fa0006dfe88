"""KS-Fusion: knowledge-driven subspace fusion of slides with tumour and microenvironment genes (MICCAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histofuse.io import InputError
from histofuse.models.deformable import DeformableAttention, Geometry, Points
from histofuse.models.gecon import GeCon
from histofuse.models.layers import SelfNormalisingEncoder
from histofuse.models.magnifications import on_map, places_of, side_of
from histofuse.models.output import Output

GECON = {"alpha": 0.5}  # the weight that the authors' code has
SUBSPACES = ("tumour", "microenvironment")


class Subspace(nn.Module):
    """One gene set's branch: its genes and the slide to one vector.

    Linear 1024 → 128 and ReLU embed a tile; [tile ; genes] is mapped linearly to 128 numbers a place (the multi-modal
    teacher), which ask, by deformable attention, for places of the slide; residual, LayerNorm, mean over the map,
    linear, tanh, linear.
    """

    def __init__(self, genes: int, tiles: int, side: int, widths: Sequence[int], dropout: float, attention: Mapping):
        super().__init__()
        width = widths[-1]
        self.genes = SelfNormalisingEncoder(genes, widths, dropout, final_relu=True)
        self.embed = nn.Linear(tiles, width)
        self.teacher = nn.Linear(2 * width, width)
        self.norm_in = nn.LayerNorm(width)
        self.attention = DeformableAttention(width, side=side, dropout=dropout, **attention)
        self.norm_out = nn.LayerNorm(width)
        self.pool = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def teach(self, patches: Tensor, genes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's map, and what asks and is asked in attention, each [batch, place, width].

        The genes' half of the teacher is computed once a slide instead of once a place.
        """
        of_patch, of_genes = self.teacher.weight.chunk(2, dim=1)
        taught = F.linear(patches, of_patch) + F.linear(genes, of_genes, self.teacher.bias).unsqueeze(1)
        return taught, self.norm_in(taught), self.norm_in(patches)

    def forward(self, patches: Tensor, genes: Tensor) -> tuple[Tensor, Geometry]:
        """[batch, place, width] of embedded tiles and [batch, width] of genes → [batch, width], where it looked."""
        taught, query, keys = self.teach(patches, genes)
        attended, geometry = self.attention(query, keys)
        return self.pool(self.norm_out(taught + attended).mean(1)), geometry


class KSFusion(nn.Module):
    """Two subspaces, tumour and microenvironment, whose vectors one linear decoder joins.

    Args:
        shapes: {"tiles": (width,), "tumour": (genes,), "microenvironment": (genes,)}.
        outputs: classes, or intervals of survival.
        bag: places of the square map: the `bag` of the entry's tiles.
        widths: of the gene encoders; the last is the model's.
        dropout: of gene encoders and of attention weights.
        gecon: keywords of `gecon.GeCon`; None trains without it.
        heads, head_width, stride, align_corners: of `deformable.DeformableAttention`.
    Raises InputError when inputs or options do not fit.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        bag: int = 2500,
        widths: Sequence[int] = (64, 48, 32, 128),
        dropout: float = 0.1,
        gecon: Mapping | None = GECON,
        heads: int = 8,
        head_width: int = 64,
        stride: int | None = None,
        align_corners: bool = True,
    ):
        super().__init__()
        if set(shapes) != {"tiles", *SUBSPACES}:
            raise InputError(f"inputs: KS-Fusion reads tiles, {' and '.join(SUBSPACES)}; given are {', '.join(shapes)}")
        self.bag, side = bag, side_of(bag)
        self.gecon = None if gecon is None else GeCon(**gecon)
        attention = {"heads": heads, "head_width": head_width, "stride": stride, "align_corners": align_corners}
        self.subspaces = nn.ModuleDict(
            {u: Subspace(*shapes[u], *shapes["tiles"], side, widths, dropout, attention) for u in SUBSPACES}
        )
        self.decoder = nn.Linear(len(SUBSPACES) * widths[-1], outputs)

    def forward(self, batch: dict[str, Tensor]) -> Output:
        """→ parts W_u z_u + b / 2 that add up to the outputs; in training the loss "gecon".

        {"tiles": [batch, tile, width], each once, "tiles_place": [batch, bag], which of them stands where on the map,
        "tumour": [batch, genes], "microenvironment": …}
        """
        parts, contrast = {}, []
        patches = self._patches(batch)
        for (name, subspace), weight in zip(self.subspaces.items(), self.decoder.weight.chunk(2, 1)):
            genes = subspace.genes(batch[name])
            vector, geometry = subspace(patches[name], genes)
            parts[name] = F.linear(vector, weight, self.decoder.bias / 2)
            if self.training and self.gecon:
                contrast.append(self.gecon(genes, geometry))
        losses = {"gecon": torch.stack(contrast).sum()} if contrast else {}
        return Output(torch.stack(list(parts.values())).sum(0), parts, losses=losses)

    def branches(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(subspace.parameters()) for name, subspace in self.subspaces.items()}

    def decoders(self) -> dict[str, nn.Parameter]:
        return {"": self.decoder.weight}

    def sampling_points(self, batch: dict[str, Tensor]) -> dict[str, Points]:
        """{subspace: the points of the map that its attention reads}; some lie off the map, where nothing is read."""
        return {name: self.subspaces[name].attention.sampled(*maps) for name, maps in self._queries(batch).items()}

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"attention_tumour": [batch, bag], "attention_microenvironment": …}, which sum to 1 over the map.

        A place's share: the attention that each point on the map gets, averaged over heads and queries and dealt out
        to the four places that it is read from in the shares it is read with.
        """
        return {
            f"attention_{name}": self.subspaces[name].attention.received(query, keys)
            for name, (query, keys) in self._queries(batch).items()
        }

    def _queries(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        patches = self._patches(batch)
        return {
            name: subspace.teach(patches[name], subspace.genes(batch[name]))[1:]
            for name, subspace in self.subspaces.items()
        }

    def _patches(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{subspace: [batch, place, width]}: each tile is embedded once, for both subspaces in one product."""
        place = places_of(batch, "tiles", self.bag)
        embed = [subspace.embed for subspace in self.subspaces.values()]
        weight, bias = torch.cat([layer.weight for layer in embed]), torch.cat([layer.bias for layer in embed])
        patches = on_map(torch.relu(F.linear(batch["tiles"], weight, bias)), place)
        return dict(zip(self.subspaces, patches.chunk(len(embed), dim=-1)))

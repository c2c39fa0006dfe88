"""Teacher of disentangled multimodal learning: two magnifications, tumour and microenvironment (Zhang et al., 2026)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.consistency import FORMS, check_form, consistency
from histofuse.models.deformable import DeformableAttention, Points
from histofuse.models.layers import SelfNormalisingEncoder
from histofuse.models.magnifications import BAGS, bag_widths, check_rule, combine, on_map, places_of, side_of
from histofuse.models.output import Output

SUBSPACES = ("tumour", "microenvironment")
QUERIES = ("genes", "fused")


class DisentangledTeacher(nn.Module):
    """Two gene encoders, shared, and at each magnification a reader of its own with its own, supervised output.

    Args:
        shapes: {"tiles": (width,), "tiles_10x": (width,), "tumour": (genes,), "microenvironment": (genes,)}.
        outputs: the number of intervals or of classes; 1 for a Cox log hazard (then `combine: mean`).
        bag: places of the square maps: the `bag` of both inputs of tiles.
        query: what attention asks with: the subspace's "genes" alone, the same at all places (as the authors' code),
            or "fused": genes and each place's tile through a linear layer (as in KS-Fusion).
        combine: which prediction the two magnifications make, see `magnifications.combine`.
        consistency, consistency_weight: form of the loss between magnifications (None for none), summed over
            subspaces, and its weight, by default that of the form; see `consistency`.
        width, heads, dropout: of the model, its attention, and of attention and gene encoders.
        align_corners: see `DeformableAttention`.
    Raises InputError when an input is missing or an option is unknown.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        bag: int = 2500,
        query: str = "genes",
        combine: str = "confident",
        consistency: str | None = "gram",
        consistency_weight: float | None = None,
        width: int = 128,
        heads: int = 8,
        dropout: float = 0.1,
        align_corners: bool = True,
    ):
        super().__init__()
        check_rule(combine, outputs)
        check_form(consistency)
        if query not in QUERIES:
            raise InputError(f"params: query: {query!r} is not one of {', '.join(QUERIES)}")
        if missing := [name for name in SUBSPACES if name not in shapes]:
            raise InputError(
                f"inputs: {missing[0]}: a table of the subspace's genes is needed; there are {', '.join(shapes)}"
            )
        self.rule, self.consistency, self.heads, self.bag = combine, consistency, heads, bag
        self.consistency_weight = FORMS.get(consistency) if consistency_weight is None else consistency_weight
        self.genes = nn.ModuleDict(
            {
                name: SelfNormalisingEncoder(shapes[name][0], (64, 48, 32, width), dropout, final_relu=True)
                for name in SUBSPACES
            }
        )
        attention = {"width": width, "heads": heads, "dropout": dropout, "align_corners": align_corners}
        attention["side"] = side_of(bag)
        self.readers = nn.ModuleDict(
            {name: Reader(tiles, outputs, query, width, attention) for name, tiles in bag_widths(shapes).items()}
        )

    def forward(self, batch: dict[str, Tensor]) -> Output:
        """{bag: [batch, tile, width], bag_place: [batch, place], subspace: [batch, genes]} → `Output`.

        Its heads are the magnifications, each with parts "tumour" and "microenvironment" (half of the bias in each).
        """
        genes, maps = self._read(batch)
        heads = {name: reader(maps[name], genes)[0] for name, reader in self.readers.items()}
        total = combine([head.total for head in heads.values()], self.rule)
        return Output(total, heads=heads, losses=self._losses(maps))

    def vectors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a student learns from: "logits_20x" [batch, outputs], "features_20x" [batch, 2 · width], and of 10x."""
        genes, maps = self._read(batch)
        found = {}
        for name, reader in self.readers.items():
            head, features = reader(maps[name], genes)
            found |= {f"logits_{name}": head.total, f"features_{name}": features}
        return found

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"attention_tumour": [batch, place], "attention_microenvironment": …}, which sum to 1 over the map at 20×.

        What the places get in the subspace's attention, as in KS-Fusion (`DeformableAttention.received`).
        """
        _, maps = self._read(batch)
        reader, read = self.readers["20x"], maps["20x"]
        return {f"attention_{u}": reader.attention[u].received(read.queries[u], read.keys) for u in SUBSPACES}

    def sampling_points(self, batch: dict[str, Tensor]) -> dict[str, Points]:
        """{subspace: the points of the map at 20× that its attention reads}."""
        _, maps = self._read(batch)
        reader, read = self.readers["20x"], maps["20x"]
        return {u: reader.attention[u].sampled(read.queries[u], read.keys) for u in SUBSPACES}

    def branches(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of one subspace alone; those that both share, and the decoders, are in none."""
        found = {u: list(self.genes[u].parameters()) for u in SUBSPACES}
        for reader in self.readers.values():
            for u in SUBSPACES:
                found[u] += reader.of_subspace(u)
        return found

    def decoders(self) -> dict[str, nn.Parameter]:
        """{magnification: [outputs, 2 · width]}, the tumour's columns first."""
        return {name: reader.decoder.weight for name, reader in self.readers.items()}

    def _read(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Maps]]:
        genes = {u: self.genes[u](batch[u]) for u in SUBSPACES}
        maps = {
            name: reader.read(batch[BAGS[name]], places_of(batch, BAGS[name], self.bag), genes)
            for name, reader in self.readers.items()
        }
        return genes, maps

    def _losses(self, maps: dict[str, Maps]) -> dict[str, Tensor]:
        if not (self.training and self.consistency and self.consistency_weight):
            return {}
        of_subspaces = [
            consistency(
                *(self.readers[name].maps_of(u, maps[name]) for name in ("10x", "20x")), self.heads, self.consistency
            )
            for u in SUBSPACES
        ]
        return {"consistency": self.consistency_weight * sum(of_subspaces)}


class Maps(NamedTuple):
    """What a reader's attention reads: all [batch, place, width].

    keys: normalised tiles. queries: normalised, of each subspace. residuals: what the attention's output is added to.
    """

    keys: Tensor
    queries: dict[str, Tensor]
    residuals: dict[str, Tensor]


class Reader(nn.Module):
    """One magnification: deformable attention per subspace over one embedding of the tiles, fused, pooled, decoded.

    attention: keywords of `DeformableAttention`.
    """

    def __init__(self, tiles: int, outputs: int, query: str, width: int, attention: dict):
        super().__init__()
        self.embed = nn.Linear(tiles, width)
        self.norm = nn.LayerNorm(width)
        if query == "fused":
            self.of_tiles = nn.ModuleDict({u: nn.Linear(width, width, bias=False) for u in SUBSPACES})
            self.of_genes = nn.ModuleDict({u: nn.Linear(width, width) for u in SUBSPACES})
        self.query = query
        self.attention = nn.ModuleDict({u: DeformableAttention(**attention) for u in SUBSPACES})
        self.fuse = nn.Linear(2 * width, width)
        self.pool = nn.ModuleDict({u: SubspacePooling(width) for u in SUBSPACES})
        self.decoder = nn.Linear(2 * width, outputs)

    def read(self, tiles: Tensor, place: Tensor, genes: dict[str, Tensor]) -> Maps:
        """Each distinct tile is embedded and normalised once, then laid out."""
        embedded = torch.relu(self.embed(tiles))
        keys = on_map(self.norm(embedded), place)
        if self.query == "genes":
            residuals = {u: genes[u].unsqueeze(1).expand(-1, place.shape[1], -1) for u in SUBSPACES}
            queries = {u: self.norm(genes[u]).unsqueeze(1).expand_as(keys) for u in SUBSPACES}
        else:
            fused = {u: self.of_tiles[u](embedded) + self.of_genes[u](genes[u]).unsqueeze(1) for u in SUBSPACES}
            residuals = {u: on_map(fused[u], place) for u in SUBSPACES}
            queries = {u: on_map(self.norm(fused[u]), place) for u in SUBSPACES}
        return Maps(keys, queries, residuals)

    def forward(self, maps: Maps, genes: dict[str, Tensor]) -> tuple[Output, Tensor]:
        """The magnification's output with its two parts, and [batch, 2 · width] that it was decoded from."""
        read = [maps.residuals[u] + self.attention[u](maps.queries[u], maps.keys)[0] for u in SUBSPACES]
        fused = self.norm(self.fuse(torch.cat(read, dim=2)))
        vectors = [self.pool[u](fused, self.norm(genes[u])) for u in SUBSPACES]
        halves = self.decoder.weight.chunk(2, dim=1)
        parts = {
            u: nn.functional.linear(vector, half, self.decoder.bias / 2)
            for u, vector, half in zip(SUBSPACES, vectors, halves, strict=True)
        }
        return Output(sum(parts.values()), parts), torch.cat(vectors, dim=1)

    def maps_of(self, subspace: str, maps: Maps):
        """heads → their attention [batch, head, place, key]; made when called."""
        return lambda heads: self.attention[subspace].attention(maps.queries[subspace], maps.keys, heads)

    def of_subspace(self, subspace: str) -> list[nn.Parameter]:
        modules = [self.attention, self.pool] + ([self.of_tiles, self.of_genes] if self.query == "fused" else [])
        return [parameter for module in modules for parameter in module[subspace].parameters()]


class SubspacePooling(nn.Module):
    """The places of a fused map [batch, place, width] and a subspace's genes [batch, width] → [batch, width].

    As published each place attends to the genes, a single key. A softmax over one key is 1, so the attention is an
    affine map of the genes added to every place, and this layer is that map: queries and keys, which never got a
    gradient, are left out, and so is the dropout of that constant 1.
    """

    def __init__(self, width: int):
        super().__init__()
        self.genes = nn.Linear(width, width)
        self.norm, self.norm_pooled = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, fused: Tensor, genes: Tensor) -> Tensor:
        places = self.norm(fused + self.genes(self.norm(genes)).unsqueeze(1))
        pooled = torch.tanh(self.first(places.mean(1)))
        return torch.tanh(self.second(self.norm_pooled(pooled)))

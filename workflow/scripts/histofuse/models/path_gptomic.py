"""Path-GPTOmic: alterations and an expression embedding in one branch, histology in the other, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.branches import image_branch, tables
from histofuse.models.layers import SelfNormalisingEncoder
from histofuse.models.output import Output
from histofuse.models.pathomic_fusion import GatedKronecker

BRANCHES = ("all", "mlp")


class PathGPTOmic(nn.Module):
    """θ = W^G·G + W^P·P + b, with G of the genomic branch and P of the image branch.

    G = MLP-B([SNN(alterations) ; embedding]), three layers with ReLU and dropout; the embedding is scGPT's, smoothed
    or not, as the entry's `inputs` say, which also give it as it is (`standardise: false`). Table 3's "concat" is this
    sum without modulation.

    Args:
        shapes: {"regions": (3, px, px)} or {"tiles": (width,)}, and the tabular blocks.
        outputs: 1 for a Cox log hazard, the number of intervals or of classes otherwise.
        embedding: block that goes to MLP-B past the SNN; None sends all blocks through the SNN, whose vector is then G.
        scale_embedding: that block times √width: for scGPT's own vectors, which have length one, so that their numbers
            are of size 1.
        widths, dropout: of the SNN. hidden, mlp_dropout: of MLP-B's three layers.
        image: keywords of the image branch (`branches.RegionEncoder` or `PooledTiles`).
        fusion: "additive", or "kronecker": both vectors linearly to 32 numbers, then Pathomic Fusion's gated product
            (`gate_image`, `gate_genomic`). That is no sum of branches and cannot be modulated.
        genomic_branch: "all" of it counts as the branch, or only the "mlp".
    Raises InputError when the embedding's block is not there or an option is unknown.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        embedding: str | None = "scgpt",
        scale_embedding: bool = False,
        widths: Sequence[int] = (64, 48, 32, 32),
        dropout: float = 0.25,
        hidden: int = 128,
        mlp_dropout: float = 0.25,
        image: Mapping | None = None,
        fusion: str = "additive",
        gate_image: bool = True,
        gate_genomic: bool = False,
        genomic_branch: str = "all",
    ):
        super().__init__()
        blocks = tables(shapes)
        if embedding is not None and (embedding not in blocks or len(blocks) < 2):
            raise InputError(
                f"params: embedding: {embedding!r} and one more table are needed under `inputs`; there are "
                f"{', '.join(blocks) or 'none'}"
            )
        for key, value, known in (
            ("fusion", fusion, ("additive", "kronecker")),
            ("genomic_branch", genomic_branch, BRANCHES if embedding else BRANCHES[:1]),
        ):
            if value not in known:
                raise InputError(f"params: {key}: {value!r} is not one of {', '.join(known)}")
        self.embedding, self.fusion, self.genomic_branch = embedding, fusion, genomic_branch
        self.blocks = tuple(name for name in blocks if name != embedding)
        self.snn = SelfNormalisingEncoder(sum(blocks[name] for name in self.blocks), widths, dropout)
        width = widths[-1]
        if embedding is not None:
            self.factor = blocks[embedding] ** 0.5 if scale_embedding else 1.0
            self.mlp = mlp(width + blocks[embedding], (hidden,) * 3, mlp_dropout)
            width = hidden
        self.image = image_branch(shapes, image)
        if fusion == "additive":
            self.head_genomic = nn.Linear(width, outputs, bias=False)
            self.head_image = nn.Linear(self.image.width, outputs, bias=False)
            self.bias = nn.Parameter(torch.zeros(outputs))
        else:
            self.to_product = nn.ModuleList([nn.Linear(self.image.width, 32), nn.Linear(width, 32)])
            self.product = GatedKronecker(32, 32, gate_image, gate_genomic)
            self.head = nn.Linear(self.product.width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor | Output:
        """{images: …, block: [batch, features]} → `Output` with parts "genomic" and "image", each with half the bias.

        With the Kronecker product: [batch, outputs].
        """
        genomic, image = self._genomic(batch), self.image(batch)
        if self.fusion == "kronecker":
            to_image, to_genomic = self.to_product
            return self.head(self.product(to_image(image), to_genomic(genomic)))
        parts = {
            "genomic": self.head_genomic(genomic) + self.bias / 2,
            "image": self.head_image(image) + self.bias / 2,
        }
        return Output(parts["genomic"] + parts["image"], parts)

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """With tiles: attention, and what each tile alone would add through the image branch (additive fusion).

        {"tiles": …, "tiles_count": …} → {"attention": [batch, tile], "output": [batch, tile, outputs]}.
        """
        scores = {"attention": self.image.pooling.attention(batch["tiles"], batch["tiles_count"])}
        if self.fusion == "additive":
            scores["output"] = self.head_image(self.image.project(batch["tiles"]))
        return scores

    def branches(self) -> dict[str, list[nn.Parameter]]:
        genomic = [] if self.genomic_branch == "mlp" else list(self.snn.parameters())
        if self.embedding is not None:
            genomic += self.mlp.parameters()
        return {"genomic": genomic, "image": list(self.image.parameters())}

    def _genomic(self, batch: dict[str, Tensor]) -> Tensor:
        vector = self.snn(torch.cat([batch[name] for name in self.blocks], dim=1))
        if self.embedding is None:
            return vector
        return self.mlp(torch.cat([vector, self.factor * batch[self.embedding]], dim=1))


def mlp(features: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout per width."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
        features = width
    return nn.Sequential(*layers)

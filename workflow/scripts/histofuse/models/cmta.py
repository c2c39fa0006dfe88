"""CMTA: each modality is translated into the other and aligned with it (Zhou and Chen, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histofuse.models.gene_groups import gene_groups
from histofuse.models.output import Output
from histofuse.models.token_fusion import GroupTokens, joint_layers, tile_tokens
from histofuse.models.transmil import MapEncoder, places


class CMTA(nn.Module):
    """An encoder per modality, cross-attention both ways, a decoder per modality; their class tokens are averaged.

    Tiles that have attended to the genes are decoded into P̂, which is to resemble the tiles' own class token P; groups
    of genes that have attended to the tiles into Ĝ, which is to resemble G. [(P + P̂) / 2 ; (G + Ĝ) / 2] goes through
    two layers to the outputs. In training |P − P̂| + |G − Ĝ|, means over the batch and the width, are added to the loss
    times `alignment`; P and G themselves do not feel it. Encoders and decoders are `transmil.MapEncoder`, on genes
    without the convolution of a map.

    The paper has a table per functional signature (six of them), trains one slide at a time with Adam, lr 2e-4 and
    decay 1e-5, 20 epochs, and has `alignment: 0.5`, as have KS-Fusion's authors, who cut their list of 431 genes
    (`slices: [100, 100, 100, 131]`) and train with lr 1e-3, 8 slides at a time. `padded: true` gives the attention
    its published padding, which drowns a handful of gene tokens in zeros: see `NystromAttention`.

    Args:
        shapes: {"tiles": (width,)}, of a bag with an order and a square number of places, and a tabular block per
            group of genes, or one to be cut into `slices`.
        outputs: the number of intervals (4 as published) or of classes, 1 for a Cox log hazard.
        width: of the tokens. heads, landmarks, padded: of the Nyström attention. dropout: of it; token_dropout: of the
            layers that make the tokens. slices: see `gene_groups`. alignment: see above.
    Raises InputError without tiles, and where `gene_groups` does.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        width: int = 256,
        heads: int = 8,
        landmarks: int = 128,
        dropout: float = 0.1,
        token_dropout: float = 0.25,
        slices: int | Sequence[int] | None = None,
        alignment: float = 0.5,
        padded: bool = False,
    ):
        super().__init__()
        self.alignment = alignment
        self.tiles = tile_tokens(shapes, width, token_dropout)
        self.groups = GroupTokens(gene_groups(shapes, slices), width, token_dropout)
        self.image_encoder, self.gene_encoder, self.image_decoder, self.gene_decoder = (
            MapEncoder(width, on_map, heads, landmarks, dropout, padded) for on_map in (True, False, True, False)
        )
        self.image_asks, self.genes_ask = CrossAttention(width), CrossAttention(width)
        self.joint = joint_layers(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor | Output:
        """{"tiles": [batch, tile, width], "tiles_place": [batch, place], table: [batch, features]} → [batch, outputs]

        In training an `Output` with the loss "alignment". Raises InputError for a bag that is no square map.
        """
        image, genes = self._encoded(batch)
        image_hat = self.image_decoder.class_token(self.image_asks(image[:, 1:], genes[:, 1:]))
        genes_hat = self.gene_decoder.class_token(self.genes_ask(genes[:, 1:], image[:, 1:]))
        image, genes = image[:, 0], genes[:, 0]
        total = self.head(self.joint(torch.cat([image + image_hat, genes + genes_hat], dim=1) / 2))
        if not self.training:
            return total
        apart = F.l1_loss(image_hat, image.detach()) + F.l1_loss(genes_hat, genes.detach())
        return Output(total, losses={"alignment": self.alignment * apart})

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each group of genes attends to: {"attention_<group>": [batch, place]}; takes what `forward` takes."""
        image, genes = self._encoded(batch)
        attention = self.genes_ask.attention(genes[:, 1:], image[:, 1:])
        return {f"attention_{name}": attention[:, k] for k, name in enumerate(self.groups)}

    def _encoded(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """[batch, 1 + place, width] and [batch, 1 + group, width], the class tokens first."""
        return self.image_encoder(places(batch, self.tiles)), self.gene_encoder(self.groups(batch))


class CrossAttention(nn.MultiheadAttention):
    """Attention of one set of tokens over another with one head, whose parameters and start are torch's.

    One of the sets is small, the genes; of the other, the places, no queries, keys or values are made. Scores are
    (W_q x) · (W_k y), so both projections can be applied to the genes; values are linear, so what projects them can be
    applied to the genes, or to their means over places. The keys' bias adds the same to all scores of a token and
    drops out.
    """

    def __init__(self, width: int):
        super().__init__(width, num_heads=1, batch_first=True)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """[batch, token, width], [batch, other, width] → [batch, token, width]"""
        _, _, of_value = self.in_proj_weight.chunk(3)
        bias = self.in_proj_bias.chunk(3)[2]
        attention = self.attention(asking, asked)
        if asking.shape[1] < asked.shape[1]:
            return self.out_proj(F.linear(attention @ asked, of_value, bias))
        return attention @ self.out_proj(F.linear(asked, of_value, bias))

    def attention(self, asking: Tensor, asked: Tensor) -> Tensor:
        """[batch, token, other]; each row sums to 1."""
        of_query, of_key, _ = self.in_proj_weight.chunk(3)
        bias = self.in_proj_bias.chunk(3)[0]
        if asking.shape[1] < asked.shape[1]:
            score = (F.linear(asking, of_query, bias) @ of_key) @ asked.mT
        else:
            keys = F.linear(asked, of_key)
            score = asking @ (keys @ of_query).mT + (keys @ bias).unsqueeze(1)
        return torch.softmax(score * self.embed_dim**-0.5, dim=-1)

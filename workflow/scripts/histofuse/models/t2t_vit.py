"""T2T-ViT-14: a vision transformer whose tokens are made by two rounds of attention over overlapping patches.

Yuan et al., 2021 (arXiv 2101.11986), with the token module of the released file `81.5_T2T_ViT_14.pth.tar`: Performer
attention (Choromanski et al., 2021). Parameters and buffers have the released names; `t2t_checkpoint` reads the file.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histofuse.io import InputError

# The three soft splits: side of the patch, stride, padding. Neighbouring patches overlap.
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
EPSILON = 1e-8  # of the Performer's denominator


class T2TViT(nn.Module):
    """Images [n, 3, image_px, image_px], normalised by ImageNet's mean and SD → [n, num_classes].

    At the defaults 21.47 M trained parameters and 4.78 G multiplications per image.

    Args:
        image_px: side of the images; 224 px give 56², 28² and at last 14² tokens.
        num_classes: 0 for the class token itself, [n, width], after the last normalisation.
        width, depth, heads, mlp_ratio: of the transformer's blocks. Their attention's scale is (width / heads)^−½.
        token_width: of the two token modules, whose Performer has token_width / 2 random features.
        token_module: "performer", or "transformer" as in the released `81.7_T2T_ViTt_14.pth.tar`.
        drop: dropout after the position table, the attention's output and the layers of the MLP.
        attn_drop: dropout on attention weights (the Performer has none to drop).
        drop_path: chance that the last block is skipped for an image; it rises from 0 in the first block.
        token_drop: dropout of the Performer's outputs, 0.1 in the published training.

    Raises InputError for settings that do not fit together, ValueError for images of another size.
    """

    def __init__(
        self,
        image_px: int = 224,
        num_classes: int = 1000,
        width: int = 384,
        depth: int = 14,
        heads: int = 6,
        mlp_ratio: float = 3.0,
        token_width: int = 64,
        token_module: str = "performer",
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        token_drop: float = 0.1,
    ):
        super().__init__()
        if width % heads:
            raise InputError(f"width {width} cannot be divided among {heads} heads")
        self.image_px, self.width, self.token_module = image_px, width, token_module
        self.tokens_to_token = TokensToToken(width, token_width, token_module, drop, attn_drop, token_drop)
        side = grid_side(image_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sinusoid_table(1 + side * side, width)[None])
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(
            Block(width, heads, int(width * mlp_ratio), drop, attn_drop, drop_path * i / max(depth - 1, 1))
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (3, self.image_px, self.image_px):
            raise ValueError(
                f"images are [n, {', '.join(map(str, images.shape[1:]))}], this model takes "
                f"[n, 3, {self.image_px}, {self.image_px}]: resize them or set image_px"
            )
        tokens = self.tokens_to_token(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.pos_drop(tokens + self.pos_embed)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, 0]))  # a normalisation of each token alone: only the class token's is used


class TokensToToken(nn.Module):
    """Images [n, 3, px, px] → tokens [n, side², width]: three soft splits, attention after the first two."""

    def __init__(self, width: int, token_width: int, kind: str, drop: float, attn_drop: float, token_drop: float):
        super().__init__()
        channels = (3, token_width, token_width)
        first, second, third = (count * side**2 for count, (side, _, _) in zip(channels, SPLITS))
        if kind == "performer":
            self.attention1 = TokenPerformer(first, token_width, token_drop, seed=1)
            self.attention2 = TokenPerformer(second, token_width, token_drop, seed=2)
        elif kind == "transformer":
            self.attention1 = TokenTransformer(first, token_width, drop, attn_drop)
            self.attention2 = TokenTransformer(second, token_width, drop, attn_drop)
        else:
            raise InputError(f"token_module: {kind!r} is not one of performer, transformer")
        self.project = nn.Linear(third, width)

    def forward(self, images: Tensor) -> Tensor:
        maps = as_map(self.attention1(soft_split(images, *SPLITS[0])))
        maps = as_map(self.attention2(soft_split(maps, *SPLITS[1])))
        # No normalisation stands between the last split and its layer: together they are a strided convolution, at
        # batch 8 on a CPU 2.7 times as fast. Patches list their values by channel, row, column as kernels do.
        side, stride, padding = SPLITS[2]
        kernel = self.project.weight.unflatten(1, (maps.shape[1], side, side))
        return F.conv2d(maps, kernel, self.project.bias, stride, padding).flatten(2).transpose(1, 2)


class TokenPerformer(nn.Module):
    """Attention over patches in linear time: [n, tokens, inputs] → [n, tokens, width].

    The softmax kernel exp(q·k) is replaced by φ(q)·φ(k) with m = width / 2 positive random features
    φ(x) = exp(w·x − |x|²/2)/√m; the rows of `w` are orthogonal, of length √m, and never trained. As the width changes,
    the values take the place of the input in the residual sum.
    """

    def __init__(self, inputs: int, width: int, drop: float, seed: int):
        super().__init__()
        features = width // 2
        self.register_buffer("w", torch.empty(features, width))
        # From their own generator: runs with other seeds differ in trained weights alone, as they do from one file.
        generator = torch.Generator().manual_seed(seed)
        nn.init.orthogonal_(self.w, gain=math.sqrt(features), generator=generator)
        self.norm1 = nn.LayerNorm(inputs)
        self.kqv = nn.Linear(inputs, 3 * width)  # in this order: keys, queries, values
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(drop)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(drop))

    def forward(self, patches: Tensor) -> Tensor:
        keys, queries, values = self.kqv(self.norm1(patches)).chunk(3, dim=-1)
        tokens = values + self.drop(self.proj(performer_attention(queries, keys, values, self.w)))
        return tokens + self.mlp(self.norm2(tokens))


def performer_attention(queries: Tensor, keys: Tensor, values: Tensor, w: Tensor) -> Tensor:
    """φ(q)(Σφ(k)vᵀ) / (φ(q)·Σφ(k) + 1e-8): three times [n, tokens, width] and w [m, width] → [n, tokens, width].

    In float32 at least, also under autocast. Nothing needs shifting there: w·x − |x|²/2 = (|w|² − |x − w|²)/2 is at
    most |w|²/2 = m/2, that is 16 at m = 32, so nothing overflows; and a feature so small that float32 makes it zero
    is nothing beside the 1e-8. That constant decides over activations of |x| > 10 or so, which are given 0.
    """
    with torch.autocast(queries.device.type, enabled=False):
        exact = torch.promote_types(values.dtype, torch.float32)
        values, w = values.to(exact), w.to(exact)
        queries, keys = (random_features(x.to(exact), w) for x in (queries, keys))
        weighted = keys.transpose(1, 2) @ values  # [n, m, width]
        total = keys.sum(dim=1).unsqueeze(-1)  # [n, m, 1]
        return (queries @ weighted) / (queries @ total + EPSILON)


def random_features(x: Tensor, w: Tensor) -> Tensor:
    """[n, tokens, width] and w [m, width] → exp(w·x − |x|²/2)/√m, [n, tokens, m]."""
    half_square = x.square().sum(dim=-1, keepdim=True) / 2
    return torch.exp(x @ w.T - half_square) / math.sqrt(len(w))


class Attention(nn.Module):
    """Multi-head attention [n, tokens, inputs] → [n, tokens, width], scale (inputs / heads)^−½, no bias before it.

    The scale goes by the width of what comes in, also where queries and keys have another one (`TokenTransformer`:
    147^−½ and 576^−½ at 64 numbers): the released weights were trained so.
    """

    def __init__(self, inputs: int, width: int, heads: int, drop: float, attn_drop: float):
        super().__init__()
        self.heads, self.attn_drop = heads, attn_drop
        self.scale = (inputs / heads) ** -0.5
        self.qkv = nn.Linear(inputs, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attend(tokens)[0]

    def attend(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The attention's output, and the values [n, tokens, width] it was mixed from."""
        queries, keys, values = self.qkv(tokens).chunk(3, dim=-1)
        split = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (queries, keys, values))
        drop = self.attn_drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*split, dropout_p=drop, scale=self.scale)
        return self.drop(self.proj(mixed.transpose(1, 2).flatten(2))), values


class MLP(nn.Module):
    """Two layers with a GELU between: [..., width] → [..., width]."""

    def __init__(self, width: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class TokenTransformer(nn.Module):
    """Attention over patches with one head and the full softmax: [n, tokens, inputs] → [n, tokens, width]."""

    def __init__(self, inputs: int, width: int, drop: float, attn_drop: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs)
        self.attn = Attention(inputs, width, 1, drop, attn_drop)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, width, drop)

    def forward(self, patches: Tensor) -> Tensor:
        mixed, values = self.attn.attend(self.norm1(patches))
        tokens = values + mixed
        return tokens + self.mlp(self.norm2(tokens))


class Block(nn.Module):
    """Attention and MLP, each behind a normalisation and beside a residual: [n, tokens, width], unchanged in shape.

    With chance `drop_path` an image passes by the branch in training; what remains is scaled to the same mean.
    """

    def __init__(self, width: int, heads: int, hidden: int, drop: float, attn_drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, width, heads, drop, attn_drop)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, drop)
        self.drop_path = drop_path

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._thinned(self.attn(self.norm1(tokens)))
        return tokens + self._thinned(self.mlp(self.norm2(tokens)))

    def _thinned(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (kept / (1 - self.drop_path)).to(branch.dtype)


def soft_split(maps: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """Overlapping patches of [n, channels, h, w] as tokens [n, patches, channels · side²]; zeros beyond the border."""
    return F.unfold(maps, side, padding=padding, stride=stride).transpose(1, 2)


def as_map(tokens: Tensor) -> Tensor:
    """Tokens of a square grid [n, side², channels] → [n, channels, side, side], without a copy."""
    return tokens.unflatten(1, (math.isqrt(tokens.shape[1]), -1)).permute(0, 3, 1, 2)


def grid_side(image_px: int) -> int:
    """Tokens along a side after the three splits of an image: 14 at 224 px."""
    for side, stride, padding in SPLITS:
        image_px = (image_px + 2 * padding - side) // stride + 1
    return image_px


def sinusoid_table(positions: int, width: int) -> Tensor:
    """Position p in column j: sin (j even) or cos (j odd) of p / 10000^(2⌊j/2⌋/width). Float32 [positions, width]."""
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10_000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()

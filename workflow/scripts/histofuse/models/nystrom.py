"""Nyström self-attention (Xiong et al., 2021) as TransMIL and CMTA use it: linear in the number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NystromAttention(nn.Module):
    """Self-attention through landmarks: softmax(q k̃ᵀ) · softmax(q̃ k̃ᵀ)⁺ · softmax(q̃ kᵀ) · v, all over √head_width.

    q̃ and k̃ are the means of q and k over segments of successive tokens; ⁺ is `pseudo_inverse_times`. A depthwise
    convolution of the values along the sequence, with one kernel per head, is added. Products are taken from the
    right, so nothing of size tokens × landmarks² is computed, and both outer softmaxes are fused with their products.

    Segments are equally long but for the first one, which has what is left. As published (`padded`), zero tokens are
    put before the others until `landmarks` divides their number. These are attended to like any token, which changes
    little for 2,501 tokens (59 zeros beside them) and nearly everything for a handful.

    Args:
        width: of the tokens. heads, head_width: of the attention; queries, keys and values have no bias.
        landmarks: at most that many, at most one per token; with `padded` exactly as many.
        iterations: of the pseudo-inverse. kernel: of the convolution, odd. dropout: of what comes out.
    """

    def __init__(
        self,
        width: int,
        heads: int = 8,
        head_width: int = 64,
        landmarks: int = 256,
        iterations: int = 6,
        kernel: int = 33,
        dropout: float = 0.1,
        padded: bool = False,
    ):
        super().__init__()
        self.heads, self.landmarks, self.iterations, self.padded = heads, landmarks, iterations, padded
        inner = heads * head_width
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.residual = nn.Conv1d(heads, heads, kernel, padding=kernel // 2, groups=heads, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, token, width] → the same."""
        n = tokens.shape[1]
        tokens = self._padded(tokens)
        query, key, value = self._heads(self.qkv(tokens), 3)
        length = self._segment(tokens.shape[1])
        query_marks, key_marks = segment_means(query, length), segment_means(key, length)
        summary = self._summary(query_marks, key_marks, key, value)
        mixed = F.scaled_dot_product_attention(query, key_marks, summary) + along_sequence(value, self.residual.weight)
        return self.out(mixed[:, :, -n:].transpose(1, 2).flatten(2))

    def first(self, tokens: Tensor) -> Tensor:
        """What `forward` makes of the first token alone, [batch, width], at little more than half the work.

        Queries of the others are only needed as means, which are linear in the tokens' means.
        """
        at, tokens = -tokens.shape[1], self._padded(tokens)
        length = self._segment(tokens.shape[1])
        of_query, of_rest = self.qkv.weight.tensor_split([self.out[0].in_features])
        key, value = self._heads(F.linear(tokens, of_rest), 2)
        (query_marks,) = self._heads(F.linear(segment_means(tokens, length), of_query), 1)
        (query,) = self._heads(F.linear(tokens[:, at].unsqueeze(1), of_query), 1)
        key_marks = segment_means(key, length)
        summary = self._summary(query_marks, key_marks, key, value)
        mixed = F.scaled_dot_product_attention(query, key_marks, summary)
        kernel = self.residual.weight.squeeze(1)  # [heads, kernel]
        middle, place = kernel.shape[1] // 2, tokens.shape[1] + at
        before, after = min(middle, place), min(middle + 1, tokens.shape[1] - place)
        seen = value[:, :, place - before : place + after]
        nearby = torch.einsum("hk,bhkd->bhd", kernel[:, middle - before : middle + after], seen)
        return self.out(mixed.squeeze(2).add(nearby).flatten(1))

    def row(self, tokens: Tensor) -> Tensor:
        """How the first token attends to each, [batch, heads, token], the convolution aside.

        Weights of an approximation: they sum to about 1, and some may be negative.
        """
        n = tokens.shape[1]
        tokens = self._padded(tokens)
        query, key, _ = self._heads(self.qkv(tokens), 3)
        length = self._segment(tokens.shape[1])
        query_marks, key_marks = segment_means(query, length), segment_means(key, length)
        to_tokens = _softmax(query_marks, key)
        weights = _softmax(query[:, :, -n:][:, :, :1], key_marks) @ self._inverse_times(
            query_marks, key_marks, to_tokens
        )
        return weights.squeeze(2)[:, :, -n:]

    def _summary(self, query_marks: Tensor, key_marks: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[batch, heads, landmark, head_width]: softmax(q̃ k̃ᵀ)⁺ · softmax(q̃ kᵀ) · v."""
        gathered = F.scaled_dot_product_attention(query_marks, key, value)
        return self._inverse_times(query_marks, key_marks, gathered).to(value.dtype)

    def _inverse_times(self, query_marks: Tensor, key_marks: Tensor, right: Tensor) -> Tensor:
        """In float32 at least, whatever autocast says: half precision does not converge."""
        with torch.autocast(right.device.type, enabled=False):
            query_marks, key_marks, right = (
                x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query_marks, key_marks, right)
            )
            return pseudo_inverse_times(_softmax(query_marks, key_marks), right, self.iterations)

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[batch, token, parts · heads · head_width] → parts × [batch, heads, token, head_width]"""
        return projected.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _padded(self, tokens: Tensor) -> Tensor:
        return F.pad(tokens, (0, 0, -tokens.shape[1] % self.landmarks, 0)) if self.padded else tokens

    def _segment(self, n: int) -> int:
        return -(-n // self.landmarks)


def segment_means(tokens: Tensor, length: int) -> Tensor:
    """Means of successive tokens, `length` at a time but for the first: […, token, width] → […, segment, width]."""
    if length == 1:
        return tokens
    short = tokens.shape[-2] % length
    means = tokens[..., short:, :].unflatten(-2, (-1, length)).mean(-2)
    return torch.cat([tokens[..., :short, :].mean(-2, keepdim=True), means], dim=-2) if short else means


def pseudo_inverse_times(matrix: Tensor, right: Tensor, iterations: int) -> Tensor:
    """Z · right, for Z the iterative pseudo-inverse of a softmax, `matrix` [..., n, n]; right [..., n, width].

    Z₀ = Aᵀ / (‖A‖₁ ‖A‖∞) and Zₖ₊₁ = Zₖ (13 − AZₖ (15 − AZₖ (7 − AZₖ))) / 4. Rows sum to 1, so ‖A‖∞ is 1; ‖A‖₁ is each
    matrix's own, so that a slide's output does not depend on its batch.
    """
    scale = 1 / matrix.sum(-2).amax(-1)
    product = _InverseTimes.apply(matrix.flatten(0, -3), right.flatten(0, -3), scale.flatten(), iterations)
    return product.unflatten(0, matrix.shape[:-2])


class _InverseTimes(torch.autograd.Function):
    """`pseudo_inverse_times` of [many, n, n] and [many, n, width], with Z₀ = scale · Aᵀ.

    With X = ZA an iteration is Z ← r(X) Z and X ← X r(X), all of them polynomials in the symmetric X₀ = scale · AᵀA, so
    they are symmetric and commute: r(Xₖ) is applied to Z₀ · right at once, and of full products only Y = X² and
    Y(7X − Y) are left, two in an iteration instead of four. Backwards, gradients of symmetric matrices are kept
    symmetric, which makes it three instead of eight. Where A is singular (copies of tiles), Z₀ has to come first: it
    removes what the r would otherwise magnify, a thousandfold after six of them.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor, right: Tensor, scale: Tensor, iterations: int) -> Tensor:
        start, given = matrix.mT * scale[:, None, None], right
        x, right, kept = start @ matrix, start @ right, []
        for k in range(iterations):
            last = k + 1 == iterations
            square = None if last else x @ x
            kept += [x, square, right]
            seen = x @ right
            cubic = 7 * right - seen
            cubic = x @ (x @ cubic) if last else square @ cubic
            right = (13 * right - 15 * seen + cubic) / 4
            if not last:
                linear = torch.sub(x, square, alpha=15 / 13)
                x = torch.baddbmm(linear, square, torch.sub(x, square, alpha=1 / 7), beta=13 / 4, alpha=7 / 4)
        ctx.save_for_backward(matrix, scale, given, *kept)
        return right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        matrix, scale, given, *kept = ctx.saved_tensors
        of_right, of_x = gradient, None
        for x, square, before in reversed(list(zip(kept[::3], kept[1::3], kept[2::3]))):
            cubic = 7 * before - x @ before
            if square is None:
                inner = x @ of_right
                of_cubic = x @ inner / 4
                of_x = torch.baddbmm(of_right @ (x @ cubic).mT, inner, cubic.mT, beta=1 / 4, alpha=1 / 4)
            else:
                of_cubic = square @ of_right / 4
                once, twice = of_x @ x, of_x @ square
                of_square = once.sub_(twice, alpha=2 / 7).sub_(of_x, alpha=15 / 7)
                of_square.baddbmm_(of_right, cubic.mT, beta=7 / 4, alpha=1 / 4)
                of_square = of_square + of_square.mT
                of_x = twice.add_(of_x, alpha=13 / 7).baddbmm_(of_square, x, beta=7 / 4)
            of_seen = -15 / 4 * of_right - of_cubic
            of_x.baddbmm_(of_seen, before.mT, beta=1 / 2, alpha=1 / 2)
            of_x = of_x + of_x.mT
            of_right = 13 / 4 * of_right + 7 * of_cubic + x @ of_seen
        of_scale = (of_x * kept[0]).sum((1, 2)) + (of_right * kept[2]).sum((1, 2))
        of_matrix = torch.baddbmm(given @ of_right.mT, matrix, of_x, alpha=2)
        scale = scale[:, None, None]
        return of_matrix * scale, matrix @ of_right * scale, of_scale / scale.flatten(), None


def along_sequence(values: Tensor, kernel: Tensor) -> Tensor:
    """One kernel [heads, 1, size] per head along the tokens of [batch, heads, token, width], zeros outside."""
    return F.conv2d(values, kernel.unsqueeze(3), padding=(kernel.shape[2] // 2, 0), groups=len(kernel))


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, dim=-1)

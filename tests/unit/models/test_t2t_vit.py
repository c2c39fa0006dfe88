"""T2T-ViT against the released names, hand-made values and naive formulations."""

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from histofuse.io import InputError
from histofuse.models.t2t_vit import (
    Block,
    T2TViT,
    TokenPerformer,
    TokensToToken,
    TokenTransformer,
    as_map,
    grid_side,
    performer_attention,
    random_features,
    sinusoid_table,
    soft_split,
)

SPECS = Path(__file__).parents[4] / "shared/specs"
TINY = {"image_px": 16, "num_classes": 3, "width": 8, "depth": 2, "heads": 2, "token_width": 4}
MODULES = ("performer", "transformer")


def tiny(seed=0, **changes):
    """A small network whose weights are large enough that every part of it matters."""
    torch.manual_seed(seed)
    model = T2TViT(**(TINY | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def normalised(x, norm):
    """Layer normalisation written out."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("module", "count"), [("performer", 188), ("transformer", 184)])
def test_names_shapes_and_types_are_the_released_ones(module, count):
    table = SPECS / f"t2t_vit_{'t_' if module == 'transformer' else ''}14_keys.tsv"
    if not table.exists():
        pytest.skip("the list of released keys is not in ../shared")
    with table.open() as file:
        released = {row["key"]: (row["shape"], row["dtype"]) for row in csv.DictReader(file, delimiter="\t")}
    assert len(released) == count
    with torch.device("meta"):
        state = T2TViT(token_module=module).state_dict()
    ours = {key: ("x".join(map(str, value.shape)), str(value.dtype)) for key, value in state.items()}
    assert ours == {key: (shape, f"torch.{dtype}") for key, (shape, dtype) in released.items()}


# Multiplications of an image by part of the network, as the architecture says them.
BLOCKS = 14 * (197 * (4 * 384**2 + 2 * 384 * 1152) + 2 * 197**2 * 384)
PROJECT_AND_HEAD = 196 * 576 * 384 + 384 * 1000


def performer_macs(tokens, inputs):
    """One layer to k, q, v; features of q and k, keys to values, queries to both, their total; three layers of 64."""
    return tokens * (inputs * 192 + 2 * 64 * 32 + 2 * 32 * 64 + 32 + 3 * 64**2)


def test_published_size():
    """21.47 M trained parameters and 4.78 G multiplications; the fixed position table and features come on top.

    torch counts the matrix products and convolutions of a real pass; plain attention, because its counter does not
    know the CPU's fused one.
    """
    with torch.device("meta"):  # sizes alone count, so no weights are drawn
        model = T2TViT().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_465_806
    assert sum(value.numel() for value in model.state_dict().values()) == 21_545_550
    model.to_empty(device="cpu")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == (
        BLOCKS + PROJECT_AND_HEAD + performer_macs(56**2, 147) + performer_macs(28**2, 576)
    )
    assert counter.get_total_flops() / 2e9 == pytest.approx(4.78, abs=0.005)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("image_px", [16, 50, 64])
def test_images_of_other_sizes_need_another_model(module, image_px):
    model = tiny(image_px=image_px, token_module=module).eval()
    assert model.pos_embed.shape == (1, 1 + grid_side(image_px) ** 2, 8)
    assert model(torch.randn(2, 3, image_px, image_px)).shape == (2, 3)
    for shape in ((2, 3, image_px + 1, image_px), (2, 1, image_px, image_px), (3, image_px, image_px)):
        with pytest.raises(ValueError, match=f"this model takes .*{image_px}.* resize them or set image_px"):
            model(torch.zeros(shape))


def test_grid_of_tokens():
    assert [grid_side(px) for px in (16, 50, 64, 224, 384, 512)] == [1, 3, 4, 14, 24, 32]


def test_without_classes_the_class_token_comes_out():
    model = tiny().eval()
    images = torch.randn(2, 3, 16, 16)
    bare = T2TViT(**(TINY | {"num_classes": 0})).eval()
    bare.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("head.")})
    token = bare(images)
    assert token.shape == (2, 8)
    torch.testing.assert_close(F.linear(token, model.head.weight, model.head.bias), model(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 3}, "width 8 cannot be divided among 3 heads"), ({"token_module": "linear"}, "token_module: 'linear'")],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)


def test_position_table_by_hand():
    expected = [[0, 1, 0, 1], [0.841471, 0.540302, 0.01, 0.99995], [0.909297, -0.416147, 0.019999, 0.9998]]
    torch.testing.assert_close(sinusoid_table(3, 4), torch.tensor(expected), atol=1e-6, rtol=0)
    assert torch.equal(tiny(image_px=50).pos_embed, sinusoid_table(10, 8)[None])


def test_soft_split_by_hand():
    """3 × 3 pixels, patches of 3 with stride 2 and a border of 1: channel by channel, row by row, zeros outside."""
    maps = torch.stack([torch.arange(1.0, 10).view(3, 3), torch.arange(11.0, 20).view(3, 3)])[None]
    tokens = soft_split(maps, 3, 2, 1)
    assert tokens.shape == (1, 4, 18)
    assert tokens[0, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 4, 5, 0, 0, 0, 0, 11, 12, 0, 14, 15]
    assert tokens[0, 1, :9].tolist() == [0, 0, 0, 2, 3, 0, 5, 6, 0]  # right of the first: a row of patches comes first
    assert torch.equal(as_map(maps.flatten(2).transpose(1, 2)), maps)


@pytest.mark.parametrize("module", MODULES)
def test_last_split_as_a_convolution_equals_unfolding(module):
    torch.manual_seed(4)
    tokens_to_token = TokensToToken(12, 6, module, 0.0, 0.0, 0.0).double().eval()
    images = torch.randn(2, 3, 50, 50, dtype=torch.float64)
    maps = images
    for attention, split in ((tokens_to_token.attention1, (7, 4, 2)), (tokens_to_token.attention2, (3, 2, 1))):
        maps = as_map(attention(soft_split(maps, *split)))
    torch.testing.assert_close(tokens_to_token(images), tokens_to_token.project(soft_split(maps, 3, 2, 1)))


def test_random_features_are_orthogonal_fixed_and_not_trained():
    first = T2TViT(depth=1)
    torch.manual_seed(99)
    second = T2TViT(depth=1)
    w1, w2 = (getattr(first.tokens_to_token, name).w for name in ("attention1", "attention2"))
    torch.testing.assert_close(w1 @ w1.T, 32 * torch.eye(32), atol=1e-4, rtol=0)
    assert not torch.equal(w1, w2)
    assert torch.equal(w1, second.tokens_to_token.attention1.w)
    assert not {"tokens_to_token.attention1.w", "pos_embed"} & {name for name, _ in first.named_parameters()}


def test_random_features_estimate_the_softmax_kernel():
    torch.manual_seed(5)
    queries, keys = torch.randn(2, 1, 6, 4, dtype=torch.float64) * 0.4
    w = torch.randn(400_000, 4, dtype=torch.float64)
    estimate = random_features(queries, w) @ random_features(keys, w).transpose(1, 2)
    torch.testing.assert_close(estimate, torch.exp(queries @ keys.transpose(1, 2)), rtol=0.02, atol=0)


def test_performer_equals_the_kernel_over_all_pairs():
    torch.manual_seed(6)
    queries, keys, values = torch.randn(3, 2, 9, 4, dtype=torch.float64)
    w = torch.randn(3, 4, dtype=torch.float64)
    expected = torch.zeros_like(values)
    for n in range(2):
        for i, query in enumerate(queries[n]):
            kernel = [
                sum(
                    math.exp(row @ query - query @ query / 2) * math.exp(row @ key - key @ key / 2) / 3  # 1/√m each
                    for row in w
                )
                for key in keys[n]
            ]
            mixed = sum(weight * value for weight, value in zip(kernel, values[n]))
            expected[n, i] = mixed / (sum(kernel) + 1e-8)
    torch.testing.assert_close(performer_attention(queries, keys, values, w), expected)


@pytest.mark.parametrize("size", [1.0, 10.0, 1e3, 1e9])
def test_performer_stays_finite_however_large_the_activations(size):
    w = TokenPerformer(27, 64, 0.0, seed=1).w
    torch.manual_seed(7)
    inputs = [(size * torch.randn(1, 20, 64)).requires_grad_() for _ in range(3)]
    output = performer_attention(*inputs, w)
    output.sum().backward()
    assert all(tensor.isfinite().all() for tensor in (output, *(x.grad for x in inputs)))
    exact = performer_attention(*(x.detach().double() for x in inputs), w.double())
    torch.testing.assert_close(output.detach().double(), exact, rtol=1e-3, atol=1e-6 * size)


def test_largest_feature_does_not_overflow():
    """x = w·e maximises exp(w·x − |x|²/2) at exp(|w|²/2) = e^16."""
    w = TokenPerformer(27, 64, 0.0, seed=1).w
    assert random_features(w, w).max().item() == pytest.approx(math.exp(16) / math.sqrt(32), rel=1e-4)


def test_exponentials_are_float32_under_autocast():
    torch.manual_seed(8)
    queries, keys, values = (3 * torch.randn(3, 1, 30, 8)).bfloat16()
    w = TokenPerformer(27, 8, 0.0, seed=1).w
    with torch.autocast("cpu", torch.bfloat16):
        output = performer_attention(queries, keys, values, w)
    assert output.dtype == torch.float32
    assert torch.equal(output, performer_attention(queries.float(), keys.float(), values.float(), w))


@pytest.mark.parametrize("module", MODULES)
def test_bfloat16_is_near_float32(module):
    torch.manual_seed(9)
    model = T2TViT(image_px=64, num_classes=0, width=48, depth=2, heads=6, token_module=module).eval()
    images = torch.randn(4, 3, 64, 64)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images)
    assert ((rounded.float() - exact).norm() / exact.norm()).item() < 0.02


def test_token_performer_equals_its_formula():
    torch.manual_seed(10)
    module = TokenPerformer(27, 4, 0.1, seed=1).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    patches = torch.randn(2, 9, 27, dtype=torch.float64)
    projected = normalised(patches, module.norm1) @ module.kqv.weight.T + module.kqv.bias
    keys, queries, values = projected[..., :4], projected[..., 4:8], projected[..., 8:]
    tokens = values + module.proj(performer_attention(queries, keys, values, module.w))
    hidden = gelu(module.mlp[0](normalised(tokens, module.norm2)))
    torch.testing.assert_close(module(patches), tokens + module.mlp[2](hidden))


def naive_attention(x, attention, width, heads, divisor):
    """Attention head by head, scores divided by √divisor, and the values."""
    qkv = x @ attention.qkv.weight.T
    queries, keys, values = qkv[..., :width], qkv[..., width : 2 * width], qkv[..., 2 * width :]
    mixed, size = [], width // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(divisor)
        mixed.append(scores.softmax(-1) @ values[..., part])
    return torch.cat(mixed, -1) @ attention.proj.weight.T + attention.proj.bias, values


def test_block_equals_its_formula():
    torch.manual_seed(11)
    block = Block(12, 3, 36, drop=0.1, attn_drop=0.1, drop_path=0.1).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    middle = x + naive_attention(normalised(x, block.norm1), block.attn, 12, 3, divisor=4)[0]
    expected = middle + block.mlp.fc2(gelu(block.mlp.fc1(normalised(middle, block.norm2))))
    torch.testing.assert_close(block(x), expected)


def test_token_transformer_equals_its_formula():
    """Its scale goes by the patches' 27 numbers, not by the tokens' six: 81.7_T2T_ViTt_14 was trained so."""
    torch.manual_seed(12)
    module = TokenTransformer(27, 6, 0.0, 0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    patches = torch.randn(2, 9, 27, dtype=torch.float64)
    mixed, values = naive_attention(normalised(patches, module.norm1), module.attn, 6, 1, divisor=27)
    tokens = values + mixed
    expected = tokens + module.mlp.fc2(gelu(module.mlp.fc1(normalised(tokens, module.norm2))))
    torch.testing.assert_close(module(patches), expected)


def test_scales_at_the_published_size():
    with torch.device("meta"):
        model = T2TViT(token_module="transformer")
    modules = model.tokens_to_token
    inputs = {round(attention.attn.scale**-2, 6) for attention in (modules.attention1, modules.attention2)}
    assert inputs == {147, 576}  # 3 · 7² and 64 · 3²
    assert {round(block.attn.scale**-2, 6) for block in model.blocks} == {64}


@pytest.mark.parametrize("module", MODULES)
def test_gradients_are_those_of_finite_differences(module):
    model = tiny(image_px=18, depth=1, token_module=module).double().eval()
    names, parameters = zip(*model.named_parameters())

    def output(images, *values):
        return torch.func.functional_call(model, dict(zip(names, values)), images).square().sum()

    inputs = [torch.randn(2, 3, 18, 18, dtype=torch.float64), *(parameter.detach() for parameter in parameters)]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(output, inputs, fast_mode=True)
    assert all(grad.any() for grad in torch.autograd.grad(output(*inputs), inputs)), "part unused"


def test_image_is_encoded_alone():
    model = tiny().eval()
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]))


@pytest.mark.parametrize("rate", ["drop", "attn_drop", "drop_path", "token_drop"])
def test_each_drop_rate_acts_in_training_alone(rate):
    none = {"drop": 0.0, "attn_drop": 0.0, "drop_path": 0.0, "token_drop": 0.0}
    images = torch.randn(8, 3, 50, 50)
    still, dropping = (tiny(image_px=50, **settings) for settings in (none, none | {rate: 0.3}))
    torch.testing.assert_close(still.train()(images), still.eval()(images))
    torch.testing.assert_close(dropping.eval()(images), still(images))
    assert not torch.allclose(dropping.train()(images), still(images), atol=1e-3)


def test_skipped_branches_keep_the_mean():
    """With the MLP silenced, the block adds to an image twice its attention or nothing at a rate of one half."""
    assert [block.drop_path for block in tiny(depth=3, drop_path=0.2).blocks] == pytest.approx([0, 0.1, 0.2])
    torch.manual_seed(13)
    block = Block(8, 2, 16, drop=0.0, attn_drop=0.0, drop_path=0.5)
    torch.nn.init.zeros_(block.mlp.fc2.weight)
    torch.nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(1, 5, 8).expand(64, -1, -1)
    branch = block.attn(block.norm1(x[0:1]))[0]
    added = block.train()(x) - x
    share = [(image.norm() / branch.norm()).item() for image in added]
    assert all(value == pytest.approx(2, abs=1e-4) or value == pytest.approx(0, abs=1e-4) for value in share)
    assert 0.6 < sum(share) / 64 < 1.4

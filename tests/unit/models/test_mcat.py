"""MCAT: co-attention against torch's own on a laid-out bag, groups of genes, batches of one, size."""

import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.mcat import MCAT, CoAttention
from histofuse.models.token_fusion import GroupTokens, TokenPooling

SHAPES = {"tiles": (6,), "growth": (11,), "immune": (4,), "kinases": (7,)}


def build(shapes=SHAPES, **params):
    torch.manual_seed(0)
    return MCAT(shapes, 4, **({"width": 16, "heads": 2, "feedforward": 8} | params)).eval()


def batch_of(shapes=SHAPES, n=3, tiles=10):
    generator = torch.Generator().manual_seed(2)
    batch = {name: torch.randn(n, *shape, generator=generator) for name, shape in shapes.items() if name != "tiles"}
    batch["tiles"] = torch.randn(n, tiles, 6, generator=generator)
    return batch | {"tiles_count": torch.ones(n, tiles)}


@pytest.fixture
def laid_out():
    """Five tiles of which some are repeated, in a bag of ten; (tiles, count, the bag)."""
    torch.manual_seed(1)
    tiles, times = torch.randn(2, 5, 8).double(), torch.tensor([4, 3, 1, 1, 1])
    return tiles, times.expand(2, 5).double(), tiles.repeat_interleave(times, dim=1)


def dense(module, tokens, bag):
    """torch's own attention with the same parameters, keys and values made of every tile of the bag."""
    reference = nn.MultiheadAttention(8, 1, batch_first=True).double()
    reference.load_state_dict(module.state_dict())
    return reference, reference(tokens, bag, bag)


def test_coattention_equals_torchs_on_the_repeated_bag(laid_out):
    tiles, count, bag = laid_out
    module, tokens = CoAttention(8).double(), torch.randn(2, 3, 8).double()
    nn.init.normal_(module.in_proj_bias)
    seen, attention = module(tokens, tiles, count)
    _, (expected, weights) = dense(module, tokens, bag)
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(attention[..., 0], weights[..., :4].sum(2))
    torch.testing.assert_close(attention.sum(2), torch.ones(2, 3).double())


def test_gradients_of_coattention_equal_torchs(laid_out):
    tiles, count, bag = laid_out
    module, tokens = CoAttention(8).double(), torch.randn(2, 3, 8).double()
    nn.init.normal_(module.in_proj_bias)
    module(tokens, tiles, count)[0].square().sum().backward()
    reference, (expected, _) = dense(module, tokens, bag)
    expected.square().sum().backward()
    for (name, own), theirs in zip(module.named_parameters(), reference.parameters()):
        torch.testing.assert_close(own.grad, theirs.grad, msg=name)


def test_the_output_written_out():
    """Tokens of genes, what they attend to, a transformer and gated pooling on each, two layers and the head."""
    model, batch = build(), batch_of()
    hidden = model.tiles(batch["tiles"])
    genes = torch.stack([model.groups[name](batch[name]) for name in ("growth", "immune", "kinases")], dim=1)
    seen, _ = nn.MultiheadAttention.forward(model.coattention, genes, hidden, hidden)
    pooled = []
    for side, tokens in ((model.image, seen), (model.omics, genes)):
        tokens = side.transformer(tokens)
        gate = side.attention
        score = gate.score(torch.tanh(gate.hidden[0](tokens)) * torch.sigmoid(gate.gate[0](tokens)))
        pooled.append(side.out[0]((torch.softmax(score, dim=1) * tokens).sum(1)).clamp(min=0))
    joint = model.joint[0](torch.cat(pooled, dim=1)).clamp(min=0)
    joint = model.joint[2](joint).clamp(min=0)
    torch.testing.assert_close(model(batch), model.head(joint))


def test_counted_tiles_are_the_bag_that_is_laid_out():
    model, batch = build(), batch_of(n=1, tiles=3)
    place = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 0]])
    laid_out = batch | {"tiles": batch["tiles"][:, place[0]], "tiles_count": torch.ones(1, 9)}
    counted = batch | {"tiles_count": torch.tensor([[4.0, 3, 2]]), "tiles_place": place}
    torch.testing.assert_close(model(counted), model(laid_out))


def test_padding_has_no_influence_and_a_row_stands_alone():
    """With a single row the axis of the batch stays, in training as well."""
    model, batch = build(), batch_of()
    batch["tiles_count"][1, 6:] = 0
    one = {name: values[1:2] for name, values in batch.items()}
    one |= {name: one[name][:, :6] for name in ("tiles", "tiles_count")}
    torch.testing.assert_close(model(one), model(batch)[1:2])
    assert model.train()(one).shape == (1, 4)


def test_attention_of_each_group_sums_to_one():
    model, batch = build(), batch_of()
    batch["tiles_count"][1, 6:] = 0
    scores = model.tile_scores(batch)
    assert list(scores) == ["attention_growth", "attention_immune", "attention_kinases"]
    for weights in scores.values():
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        assert not weights[1, 6:].any()
    assert not torch.allclose(scores["attention_growth"], scores["attention_immune"])


def test_slices_of_one_table_equal_tables_of_their_own():
    whole, cut = {"tiles": (6,), "genes": (22,)}, [11, 4, 7]
    model, apart = build(whole, slices=cut), build()
    apart.load_state_dict(dict(zip(apart.state_dict(), model.state_dict().values(), strict=True)))
    batch = batch_of()
    together = batch | {"genes": torch.cat([batch.pop(name) for name in ("growth", "immune", "kinases")], dim=1)}
    batch |= dict(zip(("growth", "immune", "kinases"), together["genes"].split(cut, dim=1)))
    torch.testing.assert_close(model(together), apart(batch))
    names = [f"attention_genes_{columns}" for columns in ("1_11", "12_15", "16_22")]
    assert list(model.tile_scores(together)) == names


def test_every_parameter_gets_a_gradient_and_every_input_matters():
    model, batch = build(), batch_of()
    model(batch)[:, 0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    for name in SHAPES:
        assert not torch.allclose(model(batch | {name: batch[name] + 1}), model(batch))


@pytest.mark.parametrize("slices", [[100, 100, 100, 131], None])
def test_size_at_the_published_settings(slices):
    """1024-d tiles, KS-Fusion's four slices of 431 genes or MCAT's six signatures, 4 intervals: by layers."""
    groups = slices or [94, 334, 521, 468, 1496, 479]
    tables = {"genes": (431,)} if slices else {f"signature{k}": (n,) for k, n in enumerate(groups)}
    with torch.device("meta"):
        model = MCAT({"tiles": (1024,)} | tables, 4, slices=slices)
    gated = 2 * 257 * 256 + 257
    transformer = 2 * (4 * 257 * 256 + 257 * 512 + 513 * 256 + 4 * 256)
    pooling = transformer + gated + 257 * 256
    expected = 1025 * 256 + sum((n + 1) * 256 + 257 * 256 for n in groups) + 4 * 257 * 256 + 2 * pooling
    expected += 513 * 256 + 257 * 256 + 257 * 4
    assert sum(p.numel() for p in model.parameters()) == expected


def test_pooling_and_groups_keep_a_single_row_and_a_single_token():
    tokens = GroupTokens([("genes", 0, 5)], 16, 0.1)({"genes": torch.randn(1, 5)})
    assert TokenPooling(16, 1, 2, 8, 0.1)(tokens).shape == (1, 16)


@pytest.mark.parametrize(
    ("shapes", "slices", "message"),
    [
        ({"genes": (6,)}, None, "inputs: tiles are needed; there are genes"),
        ({"tiles": (6,)}, None, "inputs: a table per group of genes, or one to cut, is needed"),
        ({"tiles": (6,), "genes": (6,)}, [3, 4], "params: slices: genes has 6 columns"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shapes, slices, message):
    with pytest.raises(InputError, match=message):
        MCAT(shapes, 4, slices=slices)

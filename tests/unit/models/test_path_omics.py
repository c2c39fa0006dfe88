"""PathOmics: how tiles fall into groups, padding, and what the parts do together."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.layers import GatedAttention
from histofuse.models.path_omics import PathOmics, deal

SHAPES = {"tiles": (6,), "growth": (11,), "immune": (4,), "alterations": (7,)}


def build(**params):
    torch.manual_seed(0)
    return PathOmics(SHAPES, 4, **({"width": 16, "heads": 2, "feedforward": 8} | params))


def batch_of(n=3, tiles=10):
    generator = torch.Generator().manual_seed(2)
    batch = {name: torch.randn(n, *shape, generator=generator) for name, shape in SHAPES.items() if name != "tiles"}
    batch["tiles"] = torch.randn(n, tiles, 6, generator=generator)
    return batch | {"tiles_count": torch.ones(n, tiles)}


@pytest.mark.parametrize("shuffle", [False, True])
def test_groups_are_of_equal_size_and_padding_is_dealt_last(shuffle):
    count = torch.tensor([[1.0, 2, 1, 1, 3, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    group = deal(count, 3, shuffle)
    assert sorted(torch.bincount(group[0]).tolist()) == [2, 2, 3]
    assert sorted(torch.bincount(group[1, :4]).tolist()) == [1, 1, 2]
    if not shuffle:
        assert group[0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_groups_are_drawn_anew_in_training_and_never_in_prediction():
    torch.manual_seed(0)
    count = torch.ones(1, 30)
    assert not torch.equal(deal(count, 3, True), deal(count, 3, True))
    model, batch = build().eval(), batch_of()
    assert torch.equal(model(batch), model(batch))


def test_gated_attention_by_hand():
    attention, x = GatedAttention(5, 3), torch.randn(2, 4, 5)
    v, u, w = attention.hidden[0], attention.gate[0], attention.score
    hidden = torch.tanh(x @ v.weight.T + v.bias) * torch.sigmoid(x @ u.weight.T + u.bias)
    torch.testing.assert_close(attention(x), (hidden @ w.weight.T + w.bias)[..., 0])


def test_a_token_is_the_attention_pooling_of_its_group():
    model, batch = build().eval(), batch_of(tiles=7)
    batch["tiles_count"][0, 0] = 2.0  # the first tile stands twice in the bag
    tokens = model._tile_tokens(batch["tiles"], batch["tiles_count"])
    own = batch["tiles"][0, [0, 0, 3, 6]]  # of the first group, dealt in turn among three
    hidden = model.tiles(own)
    weight = torch.softmax(model.tile_attention(hidden), 0)
    torch.testing.assert_close(tokens[0, 0], weight @ hidden)


def test_padding_has_no_influence():
    model, batch = build().eval(), batch_of(tiles=10)
    batch["tiles_count"][:, 7:] = 0
    short = batch | {name: batch[name][:, :7] for name in ("tiles", "tiles_count")}
    torch.testing.assert_close(model(batch), model(short))


def test_a_slide_with_fewer_tiles_than_groups():
    model, batch = build(), batch_of(tiles=5)
    batch["tiles_count"][:, 2:] = 0
    tokens = model._tile_tokens(batch["tiles"], batch["tiles_count"])
    assert (tokens.abs().sum(2) == 0).sum(1).tolist() == [1, 1, 1]
    model(batch).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_every_parameter_gets_a_gradient_and_every_input_matters():
    model, batch = build().eval(), batch_of()
    model(batch)[:, 0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    for name in SHAPES:
        assert not torch.allclose(model(batch | {name: batch[name] + 1}), model(batch))


def test_size_at_the_published_settings():
    """1024-d tiles, the entry's six families of genes and the alterations, 4 intervals: by layers."""
    groups = {f"group{k}": (100,) for k in range(7)}
    with torch.device("meta"):
        model = PathOmics({"tiles": (1024,)} | groups, 4)
    attention = 2 * 257 * 256 + 257
    transformer = 2 * (4 * 257 * 256 + 257 * 512 + 513 * 256 + 4 * 256)
    pooling = transformer + attention + 257 * 256
    expected = 1024 * 256 + attention + 7 * (101 * 256 + 257 * 256) + 2 * pooling + 513 * 256 + 257 * 256 + 257 * 4
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("shapes", [{"tiles": (6,)}, {"genes": (6,)}])
def test_tiles_and_genes_are_needed(shapes):
    with pytest.raises(InputError, match="inputs: tiles and a table per group of genes are needed; there are"):
        PathOmics(shapes, 4)

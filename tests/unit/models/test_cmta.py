"""CMTA: its size, its translation and alignment against the plain form, what groups of genes attend to."""

import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.cmta import CMTA, CrossAttention
from histofuse.models.output import Output
from histofuse.models.transmil import places

SHAPES = {"tiles": (10,), "kinases": (5,), "cytokines": (3,)}
SMALL = {"width": 16, "heads": 4, "landmarks": 8}


def build(shapes=SHAPES, **params):
    torch.manual_seed(0)
    return CMTA(shapes, 3, **SMALL | {"dropout": 0.0, "token_dropout": 0.0} | params)


def batch_of(shapes=SHAPES, slides=2):
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(slides, *shape, generator=generator) for name, shape in shapes.items()}
    batch["tiles"] = torch.randn(slides, 7, 10, generator=generator)
    return batch | {"tiles_place": torch.arange(36).expand(slides, -1) % 7}


def naive(model, batch):
    """The output and the alignment, every projection made of every token."""
    image = model.image_encoder(places(batch, model.tiles))
    genes = model.gene_encoder(model.groups(batch))

    def attend(layer, asking, asked):
        return nn.MultiheadAttention.forward(layer, asking, asked, asked, need_weights=False)[0]

    image_hat = model.image_decoder(attend(model.image_asks, image[:, 1:], genes[:, 1:]))[:, 0]
    genes_hat = model.gene_decoder(attend(model.genes_ask, genes[:, 1:], image[:, 1:]))[:, 0]
    image, genes = image[:, 0], genes[:, 0]
    total = model.head(model.joint(torch.cat([(image + image_hat) / 2, (genes + genes_hat) / 2], dim=1)))
    apart = (image.detach() - image_hat).abs().mean() + (genes.detach() - genes_hat).abs().mean()
    return total, apart


def test_size():
    """As KS-Fusion's authors run it: 4 slices of 431 genes, each through two layers of 256."""
    model = CMTA({"tiles": (1024,), "expression": (431,)}, 4, slices=[100, 100, 100, 131])
    linear = 257 * 256
    layer = 2 * 256 + 3 * 256**2 + linear + 8 * 33
    encoder = 256 + 2 * layer + 2 * 256
    tokens = 1025 * 256 + (431 + 4) * 256 + 4 * linear
    cross = 3 * linear + linear
    expected = tokens + 4 * encoder + 2 * 256 * (49 + 25 + 9 + 3) + 2 * cross + 513 * 256 + linear + 257 * 4
    assert sum(p.numel() for p in model.parameters()) == expected == 3_513_924


@pytest.mark.parametrize(("asking", "asked"), [(3, 20), (20, 3), (4, 4)])
def test_cross_attention_is_that_of_torch(asking, asked):
    torch.manual_seed(1)
    layer = CrossAttention(8)
    nn.init.normal_(layer.in_proj_bias)
    nn.init.normal_(layer.out_proj.bias)
    one, other = torch.randn(2, asking, 8), torch.randn(2, asked, 8)
    expected, attention = nn.MultiheadAttention.forward(layer, one, other, other)
    torch.testing.assert_close(layer(one, other), expected)
    torch.testing.assert_close(layer.attention(one, other), attention)


@pytest.mark.parametrize("padded", [False, True])
def test_output_loss_and_gradients_are_those_of_the_plain_form(padded):
    """Every parameter but the biases of keys, which no softmax feels, gets a gradient; P and G feel no alignment."""
    model, batch = (
        build(padded=padded).double(),
        {k: v.double() if v.is_floating_point() else v for k, v in batch_of().items()},
    )
    output, (total, apart) = model(batch), naive(model, batch)
    assert isinstance(output, Output)
    torch.testing.assert_close(output.total, total)
    torch.testing.assert_close(output.losses, {"alignment": 0.5 * apart})
    parameters = list(model.parameters())
    found = torch.autograd.grad(output.total.square().sum() + output.losses["alignment"], parameters)
    expected = torch.autograd.grad(total.square().sum() + 0.5 * apart, parameters)
    torch.testing.assert_close(found, expected)
    assert all(gradient.any() for gradient in found)


def test_without_training_there_is_only_the_output():
    model, batch = build().eval(), batch_of()
    torch.testing.assert_close(model(batch), naive(model, batch)[0])


def test_weight_of_the_alignment():
    half, twice = (build(alignment=weight)(batch_of()).losses["alignment"] for weight in (0.5, 2.0))
    torch.testing.assert_close(twice, 4 * half)


def test_every_dropout_acts_in_training_alone():
    model, batch = build(dropout=0.5), batch_of()
    assert not torch.equal(model(batch).total, model(batch).total)
    model, tiles = build(token_dropout=0.5), batch["tiles"]
    assert not torch.equal(model.tiles(tiles), model.tiles(tiles))
    assert not torch.equal(model.groups(batch), model.groups(batch))
    model = build(dropout=0.5, token_dropout=0.5).eval()
    assert torch.equal(model(batch), model(batch))


def test_a_slide_does_not_depend_on_its_batch():
    model, batch = build().eval(), batch_of()
    torch.testing.assert_close(model({name: values[1:] for name, values in batch.items()}), model(batch)[1:])


@pytest.mark.parametrize(
    ("shapes", "slices", "groups"),
    [
        (SHAPES, None, ["kinases", "cytokines"]),
        ({"tiles": (10,), "genes": (9,)}, [2, 3, 4], ["genes_1_2", "genes_3_5", "genes_6_9"]),
    ],
)
def test_each_group_of_genes_attends_to_places(shapes, slices, groups):
    model, batch = build(shapes, slices=slices).eval(), batch_of(shapes)
    scores = model.tile_scores(batch)
    assert list(scores) == [f"attention_{name}" for name in groups]
    for values in scores.values():
        assert values.shape == (2, 36)
        torch.testing.assert_close(values.sum(1), torch.ones(2))
        assert (values >= 0).all()


def test_bags_and_tables_that_are_missing_are_named():
    with pytest.raises(InputError, match="inputs: tiles are needed; there are kinases"):
        CMTA({"kinases": (5,)}, 1)
    with pytest.raises(InputError, match="a table per group of genes"):
        CMTA({"tiles": (10,)}, 1)
    batch = batch_of()
    del batch["tiles_place"]
    with pytest.raises(InputError, match="the model reads a square map"):
        build()(batch)

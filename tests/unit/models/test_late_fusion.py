"""Concat, Add and Bilinear: what they share, Bilinear's product written out, sizes, batches of one."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.add import Add
from histofuse.models.bilinear import Bilinear
from histofuse.models.concat import Concat
from histofuse.models.pathomic_fusion import GatedKronecker

SHAPES = {"alterations": (3,), "tiles": (6,), "expression": (5,)}
SMALL = {"hidden": 4, "widths": (7, 9)}
CLASSES = [Concat, Add, Bilinear]


def build(model, **params):
    torch.manual_seed(0)
    return model(SHAPES, 2, **(SMALL | params)).eval()


def batch_of(n=4, tiles=8):
    generator = torch.Generator().manual_seed(1)
    batch = {name: torch.randn(n, *SHAPES[name], generator=generator) for name in ("alterations", "expression")}
    batch["tiles"] = torch.randn(n, tiles, 6, generator=generator)
    return batch | {"tiles_count": torch.ones(n, tiles)}


def vectors(model, batch):
    path = model.path(model.pooling(batch["tiles"], batch["tiles_count"]))
    return path, model.genes(torch.cat([batch["alterations"], batch["expression"]], dim=1))


def test_add_is_a_linear_map_of_the_sum():
    model, batch = build(Add), batch_of()
    path, genes = vectors(model, batch)
    torch.testing.assert_close(model(batch), (path + genes) @ model.head.weight.T + model.head.bias)


def test_bilinear_equals_the_naive_formulation():
    """Gates output by output, the outer product of vectors with a 1, layers and moments of batch normalisation."""
    model, batch = build(Bilinear), batch_of()
    for norm in (model.product.after[2], model.product.after[6]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    path, genes = (vector.clamp(min=0) for vector in vectors(model, batch))
    gated = []
    for gate, own in ((model.product.image, path), (model.product.genomic, genes)):
        z = torch.stack([((path @ w) * genes).sum(1) + b for w, b in zip(gate.gate.weight, gate.gate.bias)], dim=1)
        hidden = gate.hidden(own).clamp(min=0) * torch.sigmoid(z)
        gated.append(torch.cat([gate.out[0](hidden).clamp(min=0), torch.ones(4, 1)], dim=1))
    x = torch.einsum("bi,bj->bij", *gated).reshape(4, 100)
    for layer, norm in (
        (model.product.after[1], model.product.after[2]),
        (model.product.after[5], model.product.after[6]),
    ):
        x = (layer(x) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        x = (x * norm.weight + norm.bias).clamp(min=0)
    torch.testing.assert_close(model(batch), model.head(x))


def test_the_gate_has_the_gradients_of_a_bilinear_layer():
    torch.manual_seed(0)
    one, other = torch.randn(3, 5).double(), torch.randn(3, 4).double()
    gate = GatedKronecker(5, 4, True, False, vector=6).image.double().eval()
    numbers = [p.numel() for p in gate.parameters()]

    def value(flat):
        return torch.func.functional_call(
            gate,
            {n: v.view(p.shape) for (n, p), v in zip(gate.named_parameters(), flat.split(numbers))},
            (one, (one, other)),
        )

    flat = torch.cat([p.detach().flatten() for p in gate.parameters()]).requires_grad_()
    assert torch.autograd.gradcheck(value, flat)
    z = torch.nn.functional.bilinear(one, other, gate.gate.weight, gate.gate.bias)
    expected = gate.out(torch.sigmoid(z) * torch.relu(gate.hidden(one)))
    torch.testing.assert_close(gate(one, (one, other)), expected)


def test_sizes_at_the_published_settings():
    """1024-d tiles, 431 genes, 4 outputs: by layers."""
    shapes = {"tiles": (1024,), "genes": (431,)}
    pooling = 1025 * 128 + 129
    genes = 432 * 64 + 65 * 48 + 49 * 32 + 33 * 128
    shared = pooling + 1025 * 128 + genes
    gates = 2 * (128**3 + 128 + 2 * 129 * 128)
    layers = (129**2 + 1) * 128 + 129 * 128 + 2 * 2 * 128
    expected = {Concat: 257 * 4, Add: 129 * 4, Bilinear: gates + layers + 129 * 4}
    for model, own in expected.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in model(shapes, 4).parameters()) == shared + own


@pytest.mark.parametrize("model", CLASSES)
def test_counted_tiles_are_the_bag_that_is_laid_out(model):
    model, batch = build(model), batch_of(n=1, tiles=3)
    place = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 0]])
    laid_out = batch | {"tiles": batch["tiles"][:, place[0]], "tiles_count": torch.ones(1, 9)}
    counted = batch | {"tiles_count": torch.tensor([[4.0, 3, 2]]), "tiles_place": place}
    torch.testing.assert_close(model(counted), model(laid_out))
    alone = model.tile_scores(counted)["attention"]
    torch.testing.assert_close(alone, model.tile_scores(laid_out)["attention"][:, :3] * counted["tiles_count"])


@pytest.mark.parametrize("model", CLASSES)
def test_padding_has_no_influence_and_a_row_stands_alone(model):
    model, batch = build(model), batch_of()
    batch["tiles_count"][2, 5:] = 0
    one = {name: values[2:3] for name, values in batch.items()}
    one |= {name: one[name][:, :5] for name in ("tiles", "tiles_count")}
    torch.testing.assert_close(model(one), model(batch)[2:3])


@pytest.mark.parametrize("model", CLASSES)
def test_every_parameter_gets_a_gradient_and_every_input_matters(model):
    model, batch = build(model).train(), batch_of()
    model(batch)[:, 0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    for name in SHAPES:
        assert not torch.allclose(model(batch | {name: batch[name] + 1}), model(batch))


def test_outputs_of_tiles_are_the_images_part_of_adds_output():
    model, batch = build(Add), batch_of()
    scores = model.tile_scores(batch)
    image = torch.einsum("bt,bto->bo", scores["attention"], scores["output"])
    torch.testing.assert_close(image + model.head(vectors(model, batch)[1]), model(batch))


def test_a_product_has_no_outputs_of_single_tiles():
    assert list(build(Bilinear).tile_scores(batch_of())) == ["attention"]


def test_bilinear_trains_on_two_rows_and_refuses_one():
    model = build(Bilinear).train()
    model(batch_of(2)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(InputError, match=r"training: batch_size: .* two rows .* take a batch_size of 2 or more"):
        model(batch_of(1))
    for model in (build(Concat), build(Add)):
        assert model.train()(batch_of(1)).shape == (1, 2)


@pytest.mark.parametrize("shapes", [{"tiles": (6,)}, {"expression": (5,)}])
def test_tiles_and_a_table_are_needed(shapes):
    with pytest.raises(InputError, match="inputs: tiles and a table are needed; there are"):
        Add(shapes, 2)

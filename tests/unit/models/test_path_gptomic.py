"""Path-GPTOmic: the sum of its branches, the parameters that belong to each, its variants."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.branches import RegionEncoder
from histofuse.models.output import Output, total_of
from histofuse.models.path_gptomic import PathGPTOmic
from histofuse.training.losses import cox_loss

T2T = {"encoder": {"width": 8, "depth": 1, "heads": 2, "token_width": 4}}
TILES = {"tiles": (6,), "alterations": (80,), "scgpt": (128,)}
REGIONS = {"regions": (3, 16, 16), "alterations": (80,), "scgpt": (128,)}


def batch_of(shapes, n=5):
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(n, *shape, generator=generator) for name, shape in shapes.items()}
    if "tiles" in shapes:
        batch["tiles"] = torch.randn(n, 9, *shapes["tiles"], generator=generator)
        batch["tiles_count"] = torch.ones(n, 9)
        batch["tiles_count"][0, 5:] = 0
    return batch


def build(shapes, outputs=1, **params):
    torch.manual_seed(0)
    return PathGPTOmic(shapes, outputs, **({"image": T2T} if "regions" in shapes else {}) | params).eval()


def count(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("shapes", [TILES, REGIONS], ids=["tiles", "regions"])
@pytest.mark.parametrize("outputs", [1, 4])
def test_output_is_the_sum_of_a_genomic_and_an_image_part(shapes, outputs):
    model, batch = build(shapes, outputs), batch_of(shapes)
    torch.nn.init.normal_(model.bias)
    output = model(batch)
    total, parts = output.total, output.parts
    assert list(parts) == list(model.branches()) == ["genomic", "image"]
    vector = model.mlp(torch.cat([model.snn(batch["alterations"]), batch["scgpt"]], 1))
    torch.testing.assert_close(parts["genomic"], vector @ model.head_genomic.weight.T + model.bias / 2)
    torch.testing.assert_close(parts["image"], model.image(batch) @ model.head_image.weight.T + model.bias / 2)
    torch.testing.assert_close(total, parts["genomic"] + parts["image"])
    assert total.shape == (5, outputs)


def test_size():
    """SNN 10,961 − 33 of its head; MLP-B 160 → 128 → 128 → 128; T2T-ViT-14's class token of 384."""
    with torch.device("meta"):
        model = PathGPTOmic(REGIONS | {"regions": (3, 224, 224)}, 1)
    branches = model.branches()
    assert count(branches["genomic"]) == 10_961 - 33 + (160 + 1) * 128 + 2 * (128 + 1) * 128
    assert count(branches["image"]) / 1e6 == pytest.approx(21.47 - 0.385, abs=0.005)
    assert count(model.parameters()) == sum(map(count, branches.values())) + 128 + 384 + 1


def test_the_head_belongs_to_no_branch():
    model = build(TILES)
    of_branches = {id(p) for parameters in model.branches().values() for p in parameters}
    rest = {name for name, p in model.named_parameters() if id(p) not in of_branches}
    assert rest == {"head_genomic.weight", "head_image.weight", "bias"}
    model = build(TILES, genomic_branch="mlp")
    assert [id(p) for p in model.branches()["genomic"]] == [id(p) for p in model.mlp.parameters()]


def test_every_parameter_but_the_bias_gets_a_gradient_from_cox():
    model, batch = build(TILES).double(), {name: value.double() for name, value in batch_of(TILES).items()}
    cox_loss(model(batch).total.squeeze(1), torch.arange(5.0), torch.ones(5)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.bias.grad.abs().item() < 1e-12
    assert all(p.grad.abs().sum() > 0 for p in model.branches()["genomic"])


def test_without_an_embedding_all_genes_go_through_the_snn():
    shapes = {"tiles": (6,), "alterations": (80,), "expression": (240,)}
    model = build(shapes, embedding=None)
    assert count(model.branches()["genomic"]) == 26_321 - 33
    assert model.head_genomic.in_features == 32
    batch = batch_of(shapes)
    moved = model(batch | {"expression": batch["expression"] + 1})
    assert not torch.allclose(moved.total, model(batch).total)


def test_the_embedding_may_be_scaled_by_the_root_of_its_width():
    """√width·e, of size 1 where e has length one, as smoothing takes it too (Path-GPTOmic's experiments 2 and 3)."""
    batch = batch_of(TILES)
    unit = batch["scgpt"] / batch["scgpt"].norm(dim=1, keepdim=True)
    plain, scaled = build(TILES), build(TILES, scale_embedding=True)
    scaled.load_state_dict(plain.state_dict())
    expected = plain(batch | {"scgpt": 128**0.5 * unit})
    torch.testing.assert_close(scaled(batch | {"scgpt": unit}).total, expected.total)


def test_the_product_is_no_sum():
    model, batch = build(TILES, fusion="kronecker"), batch_of(TILES)
    output = model(batch)
    assert not isinstance(output, Output)
    assert total_of(output) is output
    to_image, to_genomic = model.to_product
    vector = model.mlp(torch.cat([model.snn(batch["alterations"]), batch["scgpt"]], 1))
    torch.testing.assert_close(output, model.head(model.product(to_image(model.image(batch)), to_genomic(vector))))


def test_tile_outputs_weighted_by_attention_are_the_image_part():
    model, batch = build(TILES, 2, image={"project": 4}), batch_of(TILES)
    torch.nn.init.normal_(model.bias)
    scores = model.tile_scores(batch)
    part = torch.einsum("bt,bto->bo", scores["attention"], scores["output"]) + model.bias / 2
    torch.testing.assert_close(model(batch).parts["image"], part)
    assert set(build(TILES, fusion="kronecker").tile_scores(batch)) == {"attention"}


class Means(torch.nn.Module):
    """Stands for an image network from elsewhere: mean colours."""

    num_features = 3

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, images):
        return self.scale * images.mean((2, 3))


class Unsized(torch.nn.Module):
    pass


def test_the_image_network_is_replaceable():
    encoder = {"class": f"{__name__}:Means", "scale": 2.0}
    model = build(REGIONS, image={"encoder": encoder, "project": 7, "activate": True})
    assert model.head_image.in_features == 7
    batch = batch_of(REGIONS)
    expected = torch.relu(model.image.project[0](2 * batch["regions"].mean((2, 3))))
    torch.testing.assert_close(model.image(batch), expected)


def test_an_image_network_must_say_how_wide_it_is():
    with pytest.raises(InputError, match="Unsized does not say how wide its vectors are; give it `width`"):
        RegionEncoder((3, 16, 16), {"class": f"{__name__}:Unsized"})


@pytest.mark.parametrize(
    ("shapes", "params", "message"),
    [
        ({"tiles": (6,), "alterations": (80,)}, {}, "embedding: 'scgpt' and one more table are needed"),
        ({"tiles": (6,), "scgpt": (128,)}, {}, "embedding: 'scgpt' and one more table are needed"),
        (TILES, {"fusion": "concat"}, "fusion: 'concat' is not one of additive, kronecker"),
        (TILES, {"embedding": None, "genomic_branch": "mlp"}, "genomic_branch: 'mlp' is not one of all"),
        ({"alterations": (80,), "scgpt": (128,)}, {}, "the model reads regions or tiles; there are only alterations"),
    ],
)
def test_inputs_and_options_that_do_not_fit_are_refused(shapes, params, message):
    with pytest.raises(InputError, match=message):
        build(shapes, **params)

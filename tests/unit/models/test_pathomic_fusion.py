"""Pathomic Fusion: the gated Kronecker product against its naive form, sizes, variants."""

import numpy as np
import pytest
import torch

from histofuse.io import InputError
from histofuse.models.pathomic_fusion import GatedKronecker, PathomicFusion, kronecker
from histofuse.models.snn import SNN

SHAPES = {"alterations": (80,), "expression": (240,), "image": (32,)}


def count(module):
    return sum(p.numel() for p in module.parameters())


def batch_of(shapes, n=6):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(n, *shape, generator=generator) for name, shape in shapes.items()}


def test_kronecker_equals_the_naive_outer_product():
    one, other = torch.randn(4, 5), torch.randn(4, 3)
    for row, a, b in zip(kronecker(one, other), one, other):
        expected = np.kron(np.append(a.numpy(), 1), np.append(b.numpy(), 1))
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-6)


def naive(gate, one, image, genomic):
    """A gate written out, one output at a time."""
    if gate.gated:
        tensor, z = gate.gate.weight, []
        for k in range(len(tensor)):
            z.append(torch.einsum("bi,ij,bj->b", image, tensor[k], genomic) + gate.gate.bias[k])
        hidden = (one @ gate.hidden.weight.T + gate.hidden.bias).clamp(min=0)
        one = hidden / (1 + torch.exp(-torch.stack(z, 1)))
    return (one @ gate.out[0].weight.T + gate.out[0].bias).clamp(min=0)


@pytest.mark.parametrize("gates", [(True, False), (False, False), (True, True), (False, True)])
def test_fusion_equals_the_naive_formulation(gates):
    torch.manual_seed(0)
    fusion = GatedKronecker(7, 5, *gates).eval()
    image, genomic = torch.randn(4, 7), torch.randn(4, 5)
    a, b = naive(fusion.image, image, image, genomic), naive(fusion.genomic, genomic, image, genomic)
    ones = torch.ones(4, 1)
    x = torch.einsum("bi,bj->bij", torch.cat([a, ones], 1), torch.cat([b, ones], 1)).reshape(4, 33 * 33)
    for layer in (fusion.after[1], fusion.after[4]):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(fusion(image, genomic), x)


def test_published_size():
    """About 144 k with both gates' tensors; a vector without a gate has neither the gate nor the hidden layer."""
    gate = 32 * 32 * 32 + 32 + 33 * 32
    assert count(GatedKronecker(32, 32, True, True)) == 143_744
    assert count(GatedKronecker(32, 32, True, False)) == 143_744 - gate
    assert count(GatedKronecker(32, 32, False, False)) == 143_744 - 2 * gate


def test_linear_layers_start_self_normalising_and_bilinear_ones_do_not():
    torch.manual_seed(0)
    fusion = GatedKronecker(32, 32, True, True)
    assert fusion.after[1].weight.std().item() == pytest.approx(1089**-0.5, rel=0.02)
    assert not fusion.after[1].bias.any()
    assert fusion.image.gate.weight.abs().max() <= 32**-0.5  # torch's uniform start
    assert fusion.image.gate.bias.any()


def test_image_vectors_of_another_run_stay_as_they_are():
    model = PathomicFusion(SHAPES, 1, vectors="image").eval()
    batch = batch_of(SHAPES)
    genomic = model.genomic(torch.cat([batch["alterations"], batch["expression"]], 1))
    torch.testing.assert_close(model(batch), model.head(model.fusion(batch["image"], genomic)))
    assert list(model.branches()) == ["genomic"]


def test_the_genomic_network_takes_the_weights_of_an_snn():
    """The published fusion starts from the split's own SNN run."""
    snn = SNN({"alterations": (80,), "expression": (240,)}, 1).eval()
    model = PathomicFusion(SHAPES, 1, vectors="image").eval()
    model.genomic.load_state_dict(snn.encoder.state_dict())
    batch = batch_of(SHAPES)
    together = torch.cat([batch["alterations"], batch["expression"]], 1)
    torch.testing.assert_close(model.genomic(together), snn.encoder(together))


@pytest.mark.parametrize("images", [{"regions": (3, 16, 16)}, {"tiles": (6,)}])
def test_images_can_be_trained_on(images):
    shapes = {"alterations": (8,)} | images
    small = {"encoder": {"width": 8, "depth": 1, "heads": 2, "token_width": 4}} if "regions" in images else None
    model = PathomicFusion(shapes, 1, image=small).eval()
    batch = batch_of({"alterations": (8,)})
    if "tiles" in images:
        batch |= {"tiles": torch.randn(6, 4, 6), "tiles_count": torch.ones(6, 4)}
    else:
        batch["regions"] = torch.randn(6, 3, 16, 16)
    vector = model.image(batch)
    assert vector.shape == (6, 32)
    assert (vector >= 0).all()
    model(batch).sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in model.branches()["image"])


def test_bounded_output():
    model = PathomicFusion(SHAPES, 1, vectors="image", bounded=True).eval()
    wide = {name: 1e3 * value for name, value in batch_of(SHAPES).items()}
    assert model(wide).abs().max() <= 3


@pytest.mark.parametrize(
    ("shapes", "vectors", "message"),
    [
        ({"alterations": (8,)}, "image", "'image' .params: vectors. and a table for the SNN must be there"),
        ({"image": (8,)}, "image", "'image' .params: vectors. and a table for the SNN must be there"),
        ({"regions": (3, 16, 16)}, None, "a table for the SNN must be there; there are regions"),
        ({"alterations": (8,)}, None, "the model reads regions or tiles; there are only alterations"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shapes, vectors, message):
    with pytest.raises(InputError, match=message):
        PathomicFusion(shapes, 1, vectors=vectors)

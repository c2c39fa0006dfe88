"""Ge-Con: by hand, slide by slide, under permutation, and its published forms."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.deformable import Geometry
from histofuse.models.gecon import GeCon, row_normalised_gram


def random_batch(slides=6, heads=3, k=2):
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randn(slides, heads, k**2, 2, generator=generator)
    grid = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    return torch.rand(slides, 5, generator=generator), Geometry(offsets, grid + offsets)


def select(genes, geometry, order):
    return genes[order], Geometry(*(x[order] for x in geometry))


@pytest.fixture
def by_hand():
    """Two slides with unlike genes; both heads of a slide point one way, (1, 0) or (0, 1)."""
    offsets = torch.tensor([[[[1.0, 0]], [[1.0, 0]]], [[[0.0, 1]], [[0.0, 1]]]])
    return torch.eye(2), Geometry(offsets, offsets)


def test_slides_as_unlike_in_geometry_as_in_genes(by_hand):
    assert GeCon()(*by_hand).item() == 0


def test_as_published_heads_are_taken_for_slides(by_hand):
    """A slide's two heads agree, so every block's Gram is all 1/√2: ½ · ½ · (2 (1 − 1/√2)² + 2 · ½) = 0.29289."""
    assert GeCon(layout="as_published")(*by_hand).item() == pytest.approx(0.2928932)


@pytest.mark.parametrize("geometry", ["offsets", "points"])
def test_definition_slide_by_slide(geometry):
    genes, attended = random_batch()
    moved = getattr(attended, geometry).double()

    def row(of_slide, i, j):
        products = [float((of_slide[i] * other).sum()) for other in of_slide]
        return products[j] / sum(p**2 for p in products) ** 0.5

    expected = 0.0
    for i in range(6):
        for j in range(6):
            heads = [row(moved[:, head], i, j) for head in range(3)]
            expected += (row(genes.double(), i, j) - sum(heads) / 3) ** 2
    assert GeCon(alpha=0.3, geometry=geometry)(genes, attended).item() == pytest.approx(0.3 * expected / 6, rel=1e-5)


def test_as_printed_grams_are_as_long_as_they_are_and_the_norm_is_not_squared():
    genes, attended = random_batch()
    points = attended.points.double().transpose(0, 1).flatten(2)
    gram = torch.stack([head @ head.T for head in points]).mean(0)
    expected = 0.3 / 6 * (genes.double() @ genes.double().T - gram).square().sum().sqrt()
    loss = GeCon(alpha=0.3, geometry="points", form="printed")(genes, attended)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gram_permutes_with_slides():
    genes, attended = random_batch()
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    gram = row_normalised_gram(genes)
    torch.testing.assert_close(row_normalised_gram(genes[order]), gram[order][:, order])
    torch.testing.assert_close(GeCon()(*select(genes, attended, order)), GeCon()(genes, attended))
    confused = GeCon(layout="as_published")
    assert confused(*select(genes, attended, order)).item() != pytest.approx(confused(genes, attended).item(), rel=1e-3)


def test_the_grid_drowns_small_offsets():
    """Twelve keys a side and 8 slides: with the grid all of the Gram is about 1/√8, without it near the identity."""
    lines = torch.arange(12.0)
    grid = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1).reshape(1, -1, 2)
    offsets = 0.5 * torch.randn(8, 144, 2, generator=torch.Generator().manual_seed(0))
    with_grid, without = (row_normalised_gram(x.flatten(1)) for x in (grid + offsets, offsets))
    assert (with_grid - 8**-0.5).abs().max() < 0.01
    assert (without - torch.eye(8)).abs().max() < 0.25


@pytest.mark.parametrize("detach", [False, True])
def test_who_learns(detach):
    genes, attended = random_batch()
    genes.requires_grad_()
    attended.offsets.requires_grad_()
    GeCon(detach=detach)(genes, attended).backward()
    assert attended.offsets.grad.abs().sum() > 0
    assert (genes.grad is None) == detach


def test_a_slide_without_any_signal_is_finite():
    genes, attended = random_batch()
    genes[2] = 0
    genes.requires_grad_()
    loss = GeCon()(genes, attended)
    loss.backward()
    assert loss.isfinite()
    assert genes.grad.isfinite().all()


def test_half_precision_is_computed_in_single():
    genes, attended = random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = GeCon()(genes, attended)
    assert torch.equal(loss, GeCon()(genes, attended))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "keys"}, "gecon: geometry: 'keys' is not one of offsets, points"),
        ({"layout": "wrong"}, "gecon: layout: 'wrong' is not one of correct, as_published"),
        ({"form": "squared"}, "gecon: form: 'squared' is not one of normalised, printed"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GeCon(**options)

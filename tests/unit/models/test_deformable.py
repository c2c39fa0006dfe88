"""Deformable attention against its form written out, what it reads at the edge of the map, small maps."""

import pytest
import torch
from dense_ks_fusion import dense_attention

from histofuse.io import InputError
from histofuse.models.deformable import DeformableAttention


def build(side=16, far=False, **params):
    """`far`: offsets large enough to leave the map and reach the ends of the table."""
    torch.manual_seed(0)
    module = DeformableAttention(**({"width": 32, "heads": 4, "head_width": 16, "side": side, "dropout": 0} | params))
    if far:
        torch.nn.init.normal_(module.to_offset.weight, std=3)
    return module


def maps_of(module, n=2, requires_grad=False):
    torch.manual_seed(1)
    width = module.out.out_features
    return tuple(torch.randn(n, module.side**2, width, requires_grad=requires_grad) for _ in range(2))


def relative(ours, reference):
    return ((ours - reference).norm() / reference.norm()).item()


def run(forward, module):
    """Output and gradients, {name: tensor}, of a loss that reads all of the output."""
    maps = maps_of(module, requires_grad=True)
    output = forward(*maps)[0]
    module.zero_grad()
    (output * torch.linspace(-1, 1, 32)).square().sum().backward()
    return output, dict(zip(("query's map", "keys' map"), (x.grad for x in maps))), gradients_of(module)


def gradients_of(module):
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_output_and_gradients_are_within_a_thousandth_of_the_dense_form(align_corners, far):
    """The MLP's gradients, which are small, in proportion to all parameters'."""
    module = build(align_corners=align_corners, far=far)
    output, of_maps, of_parameters = run(module, module)
    expected, expected_of_maps, expected_of_parameters = run(lambda *maps: dense_attention(module, *maps), module)
    assert (output - expected).abs().max() < 1e-3 * expected.abs().max()
    whole = torch.cat([gradient.flatten() for gradient in expected_of_parameters.values()]).norm()
    for name, gradient in (expected_of_maps | expected_of_parameters).items():
        error = ((of_maps | of_parameters)[name] - gradient).norm()
        assert error < 1e-3 * (whole if name.startswith("bias.") else gradient.norm()), name


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
def test_the_table_is_within_a_thousandth_of_the_mlp(far):
    """Biases, in proportion to the largest, and the gradient of their squares to the MLP, to its own length."""
    module = build(far=far)
    geometry = module.geometry(maps_of(module)[0])
    looked_up = module.position_bias(geometry).flatten(0, 1)
    row, column = torch.meshgrid(module.places, module.places, indexing="ij")
    difference = torch.stack([column, row], -1).reshape(-1, 1, 2) - (geometry.points / 1.5 - 1).flatten(0, 1)[:, None]
    dense = module.bias(difference.sign() * torch.log(1 + difference.abs())).squeeze(-1)
    assert (looked_up - dense).abs().max() < 1e-3 * dense.abs().max()
    ours, expected = (
        torch.cat([g.flatten() for g in torch.autograd.grad(x.square().sum(), list(module.bias.parameters()))])
        for x in (looked_up, dense)
    )
    assert relative(ours, expected) < 1e-3


def test_attention_of_some_heads():
    module = build()
    _, _, expected = dense_attention(module, *maps_of(module))
    expected = expected.unflatten(0, (2, 4))
    torch.testing.assert_close(module.attention(*maps_of(module)), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(module.attention(*maps_of(module), slice(1, 3)), expected[:, 1:3], rtol=1e-3, atol=1e-5)


def test_points_are_the_grid_and_the_offsets():
    module = build(far=True)
    _, geometry = module(*maps_of(module))
    _, points, _ = dense_attention(module, *maps_of(module))
    torch.testing.assert_close(geometry.points, points.unflatten(0, (2, 4)).flatten(3).transpose(2, 3))
    grid = geometry.points - geometry.offsets
    assert grid[0, 0, :6].round(decimals=4).tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [0, 1], [1, 1]]
    assert 3 < geometry.offsets.abs().max() <= 4


def test_a_constant_map_reads_the_same_everywhere():
    """Where points stay on the map. As published a corner reads a quarter of it and an edge half."""
    for align_corners, corner, edge in ((True, 1, 1), (False, 0.25, 0.5)):
        module = build(50, align_corners=align_corners)
        torch.nn.init.zeros_(module.to_offset.weight)
        places, shares = module.read_shares(module.geometry(maps_of(module)[0]).points)
        read = shares.sum(-1)[0, 0].unflatten(0, (12, 12))
        torch.testing.assert_close(read[1:-1, 1:-1], torch.ones(10, 10))
        for where, expected in ((read[[0, 0, -1, -1], [0, -1, 0, -1]], corner), (read[0, 1:-1], edge)):
            torch.testing.assert_close(where, torch.full_like(where, expected), atol=1e-4, rtol=0)
        assert places.min() == 0
        assert places.max() == 2499


def test_points_off_the_map_read_nothing():
    module = build(50)
    _, shares = module.read_shares(torch.tensor([[-0.3, 5.0], [5.0, 11.3], [-0.1, -0.1], [5.0, 5.0]]))
    height = 1 - 0.1 * 49 / 11
    torch.testing.assert_close(shares.sum(-1), torch.tensor([0, 0, height**2, 1]))


def test_attention_is_dealt_out_to_the_places_that_are_read():
    """Without offsets the four keys of a 4 × 4 map are its corners."""
    module = build(4)
    torch.nn.init.zeros_(module.to_offset.weight)
    maps = maps_of(module)
    received = module.received(*maps).unflatten(1, (4, 4))
    expected = module.attention(*maps).mean((1, 2))
    torch.testing.assert_close(received[:, [0, 0, 3, 3], [0, 3, 0, 3]], expected, atol=1e-5, rtol=0)
    at, attention = module.sampled(*maps)
    torch.testing.assert_close(at, torch.tensor([[0.0, 0], [3, 0], [0, 3], [3, 3]]).expand(2, 4, 4, 2))
    torch.testing.assert_close(attention, module.attention(*maps).mean(2))
    far = build(16, far=True)
    received = far.received(*maps_of(far))
    torch.testing.assert_close(received.sum(1), torch.ones(2))
    assert received.min() >= 0


def test_the_loss_moves_the_points():
    module = build()
    module(*maps_of(module))[0].square().sum().backward()
    for parameter in (module.to_offset.weight, module.depthwise.weight, module.bias[0].weight, module.query):
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(("side", "keys"), [(4, 2), (5, 2), (6, 3), (11, 5), (12, 3), (13, 3), (50, 12)])
def test_keys_of_small_maps(side, keys):
    module = build(side)
    output, geometry = module(*maps_of(module, 1))
    assert output.shape == (1, side**2, 32)
    assert geometry.points.shape == (1, 4, keys**2, 2)


@pytest.mark.parametrize(("params", "least"), [({"side": 3}, 4), ({"side": 7, "stride": 4}, 8)])
def test_maps_that_are_too_small_are_refused(params, least):
    with pytest.raises(InputError, match=rf"take at least {least} a side \(`bag: {least**2}`\)"):
        build(**params)


def test_half_precision():
    module, maps = build(), maps_of(build())
    expected = module(*maps)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output, geometry = module(*maps)
    assert geometry.points.dtype == torch.float32
    assert relative(output.float(), expected) < 0.02
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_the_same_bits_twice():
    runs = []
    for _ in range(2):
        module = build(dropout=0.1)
        torch.manual_seed(5)
        module(*maps_of(module))[0].square().sum().backward()
        runs.append([p.grad for p in module.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*runs))

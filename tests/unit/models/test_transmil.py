"""TransMIL: its size, the plain form of its layers, distinct tiles against copies, maps that are refused."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.transmil import MapEncoder, MapPosition, TransMIL, places


def build(**params):
    torch.manual_seed(0)
    return TransMIL({"tiles": (10,)}, 3, **{"width": 16, "heads": 4, "landmarks": 8} | params).eval()


def batch_of(slides=2, places=36, seed=0):
    """Slides of 5 and 7 distinct tiles (one of them padded), in maps of 36 places."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn(slides, 7, 10, generator=generator)
    tiles[0, 5:] = 0
    place = torch.stack([torch.arange(places) % (5 if k == 0 else 7) for k in range(slides)])
    return {"tiles": tiles, "tiles_place": place}


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_size():
    """1,024 → 512, class token, two layers, convolutions of 49 + 25 + 9 weights and three biases, norm, 512 → 4."""
    layer = 2 * 512 + 3 * 512**2 + 512 * 513 + 8 * 33
    expected = 1025 * 512 + 512 + 2 * layer + 512 * (49 + 25 + 9 + 3) + 2 * 512 + 513 * 4
    assert count(TransMIL({"tiles": (1024,)}, 4)) == expected == 2_673_172


def test_output_is_that_of_the_layers_one_after_the_other():
    model, batch = build(), batch_of()
    tiles = torch.stack([tiles[place] for tiles, place in zip(batch["tiles"], batch["tiles_place"])])
    hidden = torch.relu(model.tiles[0](tiles))
    encoder = model.encoder
    tokens = torch.cat([encoder.start.expand(2, 1, -1), hidden], dim=1)
    one, other = encoder.layers
    tokens = tokens + one.attention(one.norm(tokens))
    tokens = encoder.position(tokens)
    tokens = tokens + other.attention(other.norm(tokens))
    torch.testing.assert_close(model(batch), model.head(encoder.norm(tokens)[:, 0]))


def test_position_is_the_sum_of_three_convolutions_and_the_map():
    torch.manual_seed(1)
    position, tokens = MapPosition(6), torch.randn(2, 1 + 25, 6)
    squares = tokens[:, 1:].transpose(1, 2).reshape(2, 6, 5, 5)
    expected = squares + sum(convolution(squares) for convolution in position.convolutions)
    found = position(tokens)
    torch.testing.assert_close(found[:, 0], tokens[:, 0])
    torch.testing.assert_close(found[:, 1:].transpose(1, 2).reshape(2, 6, 5, 5), expected)


def test_class_token_alone_equals_the_first_of_all_tokens():
    torch.manual_seed(2)
    tokens = torch.randn(3, 6, 8)
    encoder = MapEncoder(8, False, heads=2, landmarks=4, dropout=0.1, padded=False).eval()
    torch.testing.assert_close(encoder.class_token(tokens), encoder(tokens)[:, 0])


def test_copies_may_be_given_as_tiles_of_their_own():
    model, batch = build(), batch_of()
    tiles = torch.stack([tiles[place] for tiles, place in zip(batch["tiles"], batch["tiles_place"])])
    copies = {"tiles": tiles, "tiles_place": torch.arange(36).expand(2, -1)}
    torch.testing.assert_close(model(copies), model(batch))


def test_a_slide_does_not_depend_on_its_batch_nor_on_tiles_without_a_place():
    model, batch = build(), batch_of()
    alone = {"tiles": batch["tiles"][:1, :5], "tiles_place": batch["tiles_place"][:1]}
    torch.testing.assert_close(model(alone), model(batch)[:1])
    batch["tiles"][0, 5:] = 9
    torch.testing.assert_close(model(alone), model(batch)[:1])


def test_places_matter():
    model, batch = build(), batch_of()
    turned = batch | {"tiles_place": batch["tiles_place"].flip(1)}
    assert not torch.allclose(model(turned), model(batch))


def test_published_padding_is_an_option():
    assert not torch.allclose(build(padded=True)(batch_of()), build()(batch_of()))


def test_every_parameter_gets_a_gradient_in_training():
    model = build().train()
    model(batch_of(1))[:, 0].sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_scores_of_places_are_what_weighs_their_values_in_the_class_token():
    """Without the convolution, the class token of the last layer is the projected sum of values by these weights."""
    model, batch = build(heads=1), batch_of()
    layer = model.encoder.layers[1]
    torch.nn.init.zeros_(layer.attention.residual.weight)
    scores = model.tile_scores(batch)
    assert list(scores) == ["class_token"]
    tokens = model.encoder.before_last(places(batch, model.tiles))
    values = layer.attention.qkv(layer.norm(tokens)).chunk(3, 2)[2]
    of_places = torch.einsum("bp,bpw->bw", scores["class_token"], values[:, 1:])
    project = layer.attention.out[0]
    of_class = torch.linalg.solve(project.weight, (layer.first(tokens) - tokens[:, 0] - project.bias).T).T - of_places
    share = of_class / values[:, 0]  # what is left is the class token's own value, weighted
    torch.testing.assert_close(share, share.mean(1, keepdim=True).expand_as(share), atol=1e-3, rtol=0)
    torch.testing.assert_close(share.mean(1) + scores["class_token"].sum(1), torch.ones(2), atol=0.1, rtol=0)


def test_a_bag_without_places_or_that_is_no_square_is_refused():
    model, batch = build(), batch_of(places=35)
    with pytest.raises(InputError, match="a bag of 35 is no square map"):
        model(batch)
    del batch["tiles_place"]
    with pytest.raises(InputError, match="inputs: tiles: the model reads a square map; give the input `order: raster`"):
        model(batch)

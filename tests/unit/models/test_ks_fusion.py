"""KS-Fusion: its size, its published form written out, what it adds up to, its maps."""

import pytest
import torch
from dense_ks_fusion import DenseKSFusion

from histofuse.io import InputError
from histofuse.models.ks_fusion import SUBSPACES, KSFusion

SHAPES = {"tiles": (12,), "tumour": (7,), "microenvironment": (9,)}
SMALL = {"bag": 144, "widths": (8, 32), "heads": 4, "head_width": 16}
PUBLISHED = {"alpha": 0.5, "geometry": "points", "layout": "as_published"}


def build(outputs=4, **params):
    torch.manual_seed(0)
    return KSFusion(SHAPES, outputs, **(SMALL | params))


def batch_of(n=4, bag=144, tiles=40):
    """Fewer tiles than places, as many slides have; the first slide has fewer still."""
    generator = torch.Generator().manual_seed(1)
    batch = {name: torch.randn(n, *shape, generator=generator) for name, shape in SHAPES.items() if name != "tiles"}
    batch["tiles"] = torch.randn(n, tiles, 12, generator=generator)
    batch["tiles"][0, tiles - 5 :] = 0
    batch["tiles_place"] = torch.arange(bag).expand(n, -1) % tiles
    batch["tiles_place"][0] %= tiles - 5
    return batch


def every_place(batch):
    """The same with as many tiles as places."""
    place = batch["tiles_place"]
    tiles = torch.gather(batch["tiles"], 1, place.unsqueeze(-1).expand(-1, -1, batch["tiles"].shape[2]))
    return batch | {"tiles": tiles, "tiles_place": torch.arange(place.shape[1]).expand(len(place), -1)}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_size():
    with torch.device("meta"):
        model = KSFusion({"tiles": (1024,), "tumour": (59,), "microenvironment": (361,)}, 4)
    assert count(model) == 628_966
    assert {name: count(model.subspaces[name].genes) for name in SUBSPACES} == dict(zip(SUBSPACES, (12_752, 32_080)))
    assert {count(model.subspaces[name]) - count(model.subspaces[name].genes) for name in SUBSPACES} == {291_553}


@pytest.mark.parametrize(
    ("params", "published"),
    [({}, False), ({"align_corners": False, "gecon": PUBLISHED}, True)],
    ids=["corrected", "as published"],
)
def test_outputs_losses_and_gradients_are_within_a_thousandth_of_the_dense_form(params, published):
    """That form copies the genes to every place and embeds every place. The MLP is tested with attention alone."""
    model, batch = build(dropout=0, **params), batch_of()
    forms, results = (model, DenseKSFusion(model, published)), []
    for form in forms:
        output = form(batch)
        model.zero_grad()
        (output.total.square().sum() + output.losses["gecon"]).backward()
        results.append((output, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (ours, gradients), (dense, expected) = results
    torch.testing.assert_close(ours.total, dense.total, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.losses["gecon"], dense.losses["gecon"], rtol=1e-3, atol=0)
    for name, gradient in expected.items():
        if ".bias." not in name:
            assert (gradients[name] - gradient).norm() < 1e-3 * gradient.norm(), name


def test_split_teacher_is_that_of_the_concatenation():
    branch = build().subspaces["tumour"].double()
    patches, genes = torch.randn(2, 144, 32, dtype=torch.float64), torch.randn(2, 32, dtype=torch.float64)
    expected = branch.teacher(torch.cat([patches, genes.unsqueeze(1).expand(-1, 144, -1)], dim=-1))
    taught, query, keys = branch.teach(patches, genes)
    torch.testing.assert_close(taught, expected)
    torch.testing.assert_close(query, branch.norm_in(expected))
    torch.testing.assert_close(keys, branch.norm_in(patches))


def test_embedding_tiles_once_is_embedding_every_place():
    model, batch = build().eval(), batch_of()
    torch.testing.assert_close(model(batch).total, model(every_place(batch)).total)
    expected = torch.relu(model.subspaces["tumour"].embed(every_place(batch)["tiles"]))
    torch.testing.assert_close(model._patches(batch)["tumour"], expected)


def test_outputs_are_the_sum_of_parts_of_one_decoder():
    model, batch = build().eval(), batch_of()
    output = model(batch)
    assert list(output.parts) == list(model.branches()) == list(SUBSPACES)
    assert output.losses == {}
    weight = model.decoders()[""]
    assert weight is model.decoder.weight
    patches, vectors = model._patches(batch), []
    for name, columns in zip(SUBSPACES, (weight[:, :32], weight[:, 32:])):
        branch = model.subspaces[name]
        vectors.append(branch(patches[name], branch.genes(batch[name]))[0])
        torch.testing.assert_close(output.parts[name], vectors[-1] @ columns.T + model.decoder.bias / 2)
    torch.testing.assert_close(output.total, model.decoder(torch.cat(vectors, dim=1)))


def test_the_decoder_belongs_to_no_branch():
    model = build()
    of_branches = {id(p) for parameters in model.branches().values() for p in parameters}
    rest = {name for name, p in model.named_parameters() if id(p) not in of_branches}
    assert rest == {"decoder.weight", "decoder.bias"}


@pytest.mark.parametrize("gecon", [None, {"alpha": 0.5}])
def test_every_parameter_learns_and_gecon_can_be_left_out(gecon):
    model = build(gecon=gecon)
    output = model(batch_of())
    assert list(output.losses) == ([] if gecon is None else ["gecon"])
    (output.total.square().sum() + sum(output.losses.values())).backward()
    constant = "attention.bias.4.bias"  # the same for every key: it does not change a softmax
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if not name.endswith(constant))


def test_gecon_does_not_reach_the_decoder():
    model = build()
    model(batch_of()).losses["gecon"].backward()
    assert model.decoder.weight.grad is None
    assert model.subspaces["tumour"].attention.to_offset.weight.grad.abs().sum() > 0
    assert model.subspaces["tumour"].genes[0].weight.grad.abs().sum() > 0


def test_attention_of_places_and_the_points_that_it_reads():
    model, batch = build().eval(), batch_of()
    scores, points = model.tile_scores(batch), model.sampling_points(batch)
    assert list(scores) == ["attention_tumour", "attention_microenvironment"]
    for name in SUBSPACES:
        received = scores[f"attention_{name}"]
        torch.testing.assert_close(received.sum(1), torch.ones(4))
        at, attention = points[name]
        assert at.shape == (4, 4, 9, 2)
        torch.testing.assert_close(attention.sum(2), torch.ones(4, 4))
        places = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(12), indexing="xy"), -1).reshape(-1, 1, 2)
        far = (places - at.flatten(1, 2).unsqueeze(1)).abs().amax(-1).amin(-1) > 1  # from every point
        assert far.any()
        assert (received[far] == 0).all()
    assert not torch.allclose(scores["attention_tumour"], scores["attention_microenvironment"])


@pytest.mark.parametrize("option", [{"align_corners": False}, {"stride": 2}], ids=lambda option: next(iter(option)))
def test_options_reach_both_attentions(option):
    model, other = build().eval(), build(**option).eval()
    if "stride" not in option:  # which sets a kernel's size
        other.load_state_dict(model.state_dict())
    ours, others = model(batch_of()).parts, other(batch_of()).parts
    assert not any(torch.allclose(ours[name], others[name]) for name in SUBSPACES)
    assert [other.subspaces[name].attention.keys for name in SUBSPACES] == [12 // option.get("stride", 4)] * 2


@pytest.mark.parametrize("bag", [16, 36])
def test_small_bags(bag):
    model, batch = build(bag=bag), batch_of(bag=bag)
    output = model(batch)
    (output.total.sum() + output.losses["gecon"]).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_slide_alone():
    output = build()(batch_of(1))
    assert output.total.isfinite().all()
    assert output.losses["gecon"].item() == pytest.approx(0, abs=1e-6)


def test_half_precision():
    model, batch = build(dropout=0), batch_of()
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    torch.testing.assert_close(output.total.float(), expected.total, rtol=0, atol=0.05)
    assert output.losses["gecon"].dtype == torch.float32
    (output.total.float().sum() + output.losses["gecon"]).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_same_bits_twice():
    runs = []
    for _ in range(2):
        model = build()
        output = model(batch_of())
        (output.total.sum() + output.losses["gecon"]).backward()
        runs.append([output.total, *(p.grad for p in model.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*runs))


@pytest.mark.parametrize(
    ("shapes", "params", "message"),
    [
        ({"tiles": (12,), "tumour": (7,)}, {}, "reads tiles, tumour and microenvironment; given are tiles, tumour"),
        (SHAPES | {"clinical": (3,)}, {}, "given are tiles, tumour, microenvironment, clinical"),
        (SHAPES, {"bag": 140}, "bag: 140 is no square"),
        (SHAPES, {"heads": 3}, "heads: 3 do not divide the model's width of"),
        (SHAPES, {"bag": 9}, r"a map of 3 × 3 places is too small .* take at least 4 a side \(`bag: 16`\)"),
    ],
)
def test_inputs_and_options_that_do_not_fit_are_refused(shapes, params, message):
    with pytest.raises(InputError, match=message):
        KSFusion(shapes, 4, **(SMALL | params))


def test_a_bag_of_another_size_is_refused():
    with pytest.raises(InputError, match="bag: 144 places, but the bag tiles holds 36: give both the same number"):
        build()(batch_of(bag=36))
    batch = batch_of()
    del batch["tiles_place"]
    with pytest.raises(InputError, match="tiles: the model reads it as a map; give it `order: raster` and `bag"):
        build()(batch)

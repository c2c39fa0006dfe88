"""Teacher of disentangled learning: its size, parts and heads, the affine map in place of attention, its losses."""

import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.disentangled import SUBSPACES, DisentangledTeacher, SubspacePooling
from histofuse.models.magnifications import combine

SHAPES = {"tiles": (10,), "tiles_10x": (10,), "tumour": (7,), "microenvironment": (9,)}
FULL = {"tiles": (1024,), "tiles_10x": (1024,), "tumour": (59,), "microenvironment": (361,)}
SMALL = {"bag": 36, "width": 16, "heads": 4}


def batch_of(patients=3, side=6, seed=0):
    """Slides of a few tiles that repeat over the map, as small ones do; the first of them has fewest."""
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for bag, tiles in (("tiles", 11), ("tiles_10x", 5)):
        batch[bag] = torch.randn(patients, tiles, *SHAPES[bag], generator=generator)
        count = torch.tensor([tiles - 2] + [tiles] * (patients - 1))
        batch[f"{bag}_place"] = torch.arange(side**2) % count[:, None]
    return batch | {name: torch.randn(patients, *SHAPES[name], generator=generator) for name in SUBSPACES}


def build(outputs=4, **params):
    torch.manual_seed(0)
    return DisentangledTeacher(SHAPES, outputs, **(SMALL | params))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_size():
    """1,149,612 with the published attention of one key, whose queries and keys never learn; 951,468 without."""
    with torch.device("meta"):
        model, published = DisentangledTeacher(FULL, 4), nn.MultiheadAttention(128, 8)
    attention = 3 * 8 * 16 * 64 + (64 * 36 + 64) + 64 * 2 + (2 * 32 + 32) + (32 * 32 + 32) + 33 + (512 * 128 + 128)
    pooling = 256 + 128 * 129 + 256 + 128 * 129
    reader = 1025 * 128 + 256 + 2 * attention + 257 * 128 + 2 * pooling + 257 * 4
    assert attention == 93_921
    assert count(model.genes) == 12_752 + 32_080
    single_key = count(published)
    assert count(model) == 44_832 + 2 * (reader + 2 * 128 * 129)
    assert count(model) == 951_468
    assert count(model) + 4 * (single_key - 128 * 129) == 1_149_612


@pytest.mark.parametrize("outputs", [1, 4])
def test_heads_are_sums_of_two_parts_and_the_total_is_one_of_them(outputs):
    rule = "mean" if outputs == 1 else "confident"
    model, batch = build(outputs, combine=rule).eval(), batch_of()
    output = model(batch)
    assert list(output.heads) == list(model.decoders()) == ["20x", "10x"]
    vectors = model.vectors(batch)
    for name, head in output.heads.items():
        assert list(head.parts) == list(SUBSPACES)
        torch.testing.assert_close(head.total, sum(head.parts.values()))
        torch.testing.assert_close(vectors[f"logits_{name}"], head.total)
        features, decoder = vectors[f"features_{name}"], model.readers[name].decoder
        assert features.shape == (3, 32)
        torch.testing.assert_close(decoder(features), head.total)
        assert model.decoders()[name] is decoder.weight
        half = features[:, :16] @ decoder.weight[:, :16].T + decoder.bias / 2
        torch.testing.assert_close(head.parts["tumour"], half)
    torch.testing.assert_close(output.total, combine([head.total for head in output.heads.values()], rule))
    assert not output.losses


def test_pooling_is_what_attention_over_a_single_key_gives():
    """The published layer, with real multi-head attention whose value and output maps make the affine one."""
    torch.manual_seed(0)
    pool, attention = SubspacePooling(16).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    value, bias = attention.in_proj_weight[32:], attention.in_proj_bias[32:]
    with torch.no_grad():
        pool.genes.weight.copy_(attention.out_proj.weight @ value)
        pool.genes.bias.copy_(attention.out_proj.weight @ bias + attention.out_proj.bias)
    fused, genes = torch.randn(3, 25, 16).double(), torch.randn(3, 16).double()
    key = pool.norm(genes).unsqueeze(1)
    attended = fused + attention(pool.norm(fused), key, key)[0]
    expected = torch.tanh(pool.first(pool.norm(attended).mean(1)))
    expected = torch.tanh(pool.second(pool.norm_pooled(expected)))
    torch.testing.assert_close(pool(fused, genes), expected)


def by_the_published_steps(model, name, batch):
    """One magnification with every tile embedded at every place and everything side by side, in evaluation mode."""
    reader, bag = model.readers[name], {"20x": "tiles", "10x": "tiles_10x"}[name]
    tiles = torch.stack([tiles[place] for tiles, place in zip(batch[bag], batch[f"{bag}_place"])])
    embedded = torch.relu(reader.embed(tiles))
    read, vectors = [], []
    genes = {u: model.genes[u](batch[u]) for u in SUBSPACES}
    for u in SUBSPACES:
        query = genes[u].unsqueeze(1).repeat(1, tiles.shape[1], 1)
        if model.readers[name].query == "fused":
            weight = torch.cat([reader.of_tiles[u].weight, reader.of_genes[u].weight], 1)
            query = nn.functional.linear(torch.cat([embedded, query], 2), weight, reader.of_genes[u].bias)
        read.append(query + reader.attention[u](reader.norm(query), reader.norm(embedded))[0])
    fused = reader.norm(reader.fuse(torch.cat(read, 2)))
    vectors = [reader.pool[u](fused, reader.norm(genes[u])) for u in SUBSPACES]
    return reader.decoder(torch.cat(vectors, 1))


@pytest.mark.parametrize("query", ["genes", "fused"])
def test_distinct_tiles_and_broadcast_genes_give_the_published_steps(query):
    model, batch = build(query=query).eval(), batch_of()
    for name, head in model(batch).heads.items():
        torch.testing.assert_close(head.total, by_the_published_steps(model, name, batch), atol=1e-5, rtol=1e-4)


def test_only_fused_queries_see_the_tiles():
    batch = batch_of()
    for query in ("genes", "fused"):
        model = build(query=query).eval()
        queries = model._read(batch)[1]["20x"].queries["tumour"]
        assert (queries.std(1).max() > 1e-3) == (query == "fused")


@pytest.mark.parametrize("form", ["gram", "variance"])
def test_every_parameter_learns_and_consistency_is_that_of_the_attention_maps(form):
    model, batch = build(consistency=form, dropout=0.0).train(), batch_of()
    output = model(batch)
    _, maps = model._read(batch)
    expected = 0
    for u in SUBSPACES:
        first, second = (
            model.readers[m].attention[u].attention(maps[m].queries[u], maps[m].keys).flatten(1) for m in ("10x", "20x")
        )
        if form == "variance":
            expected += 1e4 * nn.functional.normalize(first @ second.T).diagonal().var()
            continue
        grams = [nn.functional.normalize(a @ a.T) for a in (first - 1 / 9, second - 1 / 9)]
        expected += (grams[0] - grams[1]).square().sum() / 3
    torch.testing.assert_close(output.losses["consistency"], expected, rtol=1e-3, atol=1e-5)
    (sum(head.total.square().sum() for head in output.heads.values()) + output.losses["consistency"]).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    assert {name.split("attention.")[1] for name in still} <= {
        f"{u}.bias.4.bias" for u in SUBSPACES
    }  # same for all keys


def test_consistency_has_its_weight_and_is_left_out_where_it_is_not_wanted():
    batch = batch_of()
    with torch.no_grad():
        plain, weighted = (build(dropout=0.0, consistency_weight=w).train()(batch).losses for w in (None, 3))
        torch.testing.assert_close(weighted["consistency"], 3 * plain["consistency"])
        assert not build(consistency=None).train()(batch).losses
        assert not build(consistency_weight=0).train()(batch).losses


def test_branches_hold_what_moves_one_part_alone():
    model = build(query="fused").eval()
    parameters = model.branches()
    shared = [name for name, _ in model.named_parameters() if not any(u in name for u in SUBSPACES)]
    assert count(model) == sum(p.numel() for u in SUBSPACES for p in parameters[u]) + sum(
        dict(model.named_parameters())[name].numel() for name in shared
    )
    assert {id(p) for p in parameters["tumour"]}.isdisjoint({id(p) for p in parameters["microenvironment"]})


def test_tile_scores_are_the_attention_that_the_places_at_20x_get():
    model, batch = build().eval(), batch_of()
    scores = model.tile_scores(batch)
    assert list(scores) == ["attention_tumour", "attention_microenvironment"]
    for weights in scores.values():
        assert weights.shape == (3, 36)
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        assert (weights >= 0).all()
    assert not torch.allclose(*scores.values())
    points = model.sampling_points(batch)
    assert list(points) == ["tumour", "microenvironment"]
    for name, (at, attention) in points.items():
        assert at.shape[:3] == attention.shape
        shares = model.readers["20x"].attention[name].read_shares
        places, weights = shares(at * (2 / 5))  # from places of the map, 6 a side, to cells of the key grid, 3 a side
        dealt = torch.zeros(3, 36).scatter_add_(1, places.flatten(1), (attention.unsqueeze(-1) * weights).flatten(1))
        torch.testing.assert_close(dealt / dealt.sum(1, keepdim=True), scores[f"attention_{name}"])


@pytest.mark.parametrize(
    ("shapes", "params", "message"),
    [
        ({"tiles": (10,), "tiles_10x": (10,), "tumour": (7,)}, {}, "microenvironment: a table of the subspace's genes"),
        ({"tiles": (10,), "tumour": (7,), "microenvironment": (9,)}, {}, "tiles_10x .tiles at 10x. is missing"),
        (SHAPES, {"query": "tiles"}, "query: 'tiles' is not one of genes, fused"),
        (SHAPES, {"consistency": "cosine"}, "consistency: 'cosine' is not one of"),
        (SHAPES, {"combine": "max"}, "combine: 'max' is not one of confident, mean"),
    ],
)
def test_inputs_and_options_that_do_not_fit_are_refused(shapes, params, message):
    with pytest.raises(InputError, match=message):
        DisentangledTeacher(shapes, 4, **(SMALL | params))

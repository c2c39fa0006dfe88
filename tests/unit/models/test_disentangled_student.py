"""Student of slides alone: its size, what it reads in training and in prediction, and what it learns of a teacher."""

import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.disentangled_student import DisentangledStudent
from histofuse.models.distillation import divergence, feature_distance
from histofuse.models.token_aggregation import density_peaks

SHAPES = {"tiles": (10,), "tiles_10x": (10,)}
SMALL = {"bag": 36, "width": 16, "heads": 4}


def batch_of(patients=3, outputs=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for bag, tiles in (("tiles", 30), ("tiles_10x", 7)):
        batch[bag] = torch.randn(patients, tiles, 10, generator=generator)
        batch[f"{bag}_place"] = (torch.arange(36) % tiles).repeat(patients, 1)
    for name in ("20x", "10x"):
        batch[f"teacher.logits_{name}"] = torch.randn(patients, outputs, generator=generator)
        batch[f"teacher.features_{name}"] = torch.tanh(torch.randn(patients, 32, generator=generator))
    return batch


def slides(batch):
    return {name: value for name, value in batch.items() if name.startswith("tiles")}


def build(outputs=4, **params):
    torch.manual_seed(0)
    return DisentangledStudent(SHAPES, outputs, **(SMALL | params))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_size():
    """453,580; with the LayerNorm and the pooling layer that the published object holds and never uses 487,116."""
    with torch.device("meta"):
        model = DisentangledStudent({"tiles": (1024,), "tiles_10x": (1024,)}, 4)
    assert count(model) == 2 * (1025 * 128 + 256 + 93_921 + 256 + 129 + 257 * 4) == 453_580
    assert count(model) + 2 * (256 + 128 * 129) == 487_116


@pytest.mark.parametrize("aggregation", ["density_peaks", "learned_seeds"])
def test_each_magnification_is_the_published_steps(aggregation):
    model, batch = build(aggregation=aggregation).eval(), batch_of()
    for name, bag in (("20x", "tiles"), ("10x", "tiles_10x")):
        reader = model.readers[name]
        tiles = torch.stack([tiles[place] for tiles, place in zip(batch[bag], batch[f"{bag}_place"])])
        embedded = torch.relu(reader.embed(tiles))
        tokens = embedded + reader.attention(reader.norm(embedded), reader.norm(embedded))[0]
        merged, _ = reader.aggregate(tokens)
        logits = reader.head(torch.cat([merged[:, 0], merged[:, 1]], 1))
        torch.testing.assert_close(model(batch).heads[name].total, logits, atol=1e-5, rtol=1e-4)


def test_prediction_needs_slides_alone_and_ignores_all_else():
    model, batch = build(teacher="teacher").eval(), batch_of()
    output = model(slides(batch))
    assert list(output.heads) == ["20x", "10x"]
    assert not output.losses
    chosen = torch.stack([head.total for head in output.heads.values()])
    assert ((chosen == output.total).all(-1).any(0)).all()
    with_more = model(batch | {"tumour": torch.randn(3, 7)})
    torch.testing.assert_close(with_more.total, output.total, atol=0, rtol=0)


def test_teacher_vectors_only_make_losses():
    batch = batch_of()
    model = build(teacher="teacher", dropout=0.0).train()
    output = model(batch)
    assert list(output.losses) == ["distillation_logits", "distillation_features"]
    torch.testing.assert_close(output.total, model.eval()(slides(batch)).total)
    expected_logits = expected_features = 0
    for name, head in output.heads.items():
        reader, bag = model.readers[name], {"20x": "tiles", "10x": "tiles_10x"}[name]
        tokens, _ = reader.aggregated(*reader.read(batch[bag], batch[f"{bag}_place"]))
        expected_logits += 0.01 * divergence(head.total, batch[f"teacher.logits_{name}"], 2.0)
        expected_features += 0.01 * feature_distance(tokens, batch[f"teacher.features_{name}"])
    torch.testing.assert_close(output.losses["distillation_logits"], expected_logits)
    torch.testing.assert_close(output.losses["distillation_features"], expected_features)


def test_options_of_distillation_reach_their_losses():
    batch = batch_of()
    with torch.no_grad():
        plain = build(teacher="teacher", dropout=0.0).train()(batch).losses
        for key, params in {
            "distillation_logits": {"logits": "hazards"},
            "distillation_features": {"matching": "ordered"},
        }.items():
            other = build(teacher="teacher", dropout=0.0, **params).train()(batch).losses
            same = "distillation_features" if key == "distillation_logits" else "distillation_logits"
            assert other[key] > plain[key]
            torch.testing.assert_close(other[same], plain[same])
        warmer = build(teacher="teacher", dropout=0.0, temperature=4.0, logits_weight=0.1, features_weight=0)
        losses = warmer.train()(batch)
        expected = sum(
            0.1 * divergence(head.total, batch[f"teacher.logits_{name}"], 4.0) for name, head in losses.heads.items()
        )
        assert list(losses.losses) == ["distillation_logits"]
        torch.testing.assert_close(losses.losses["distillation_logits"], expected)
    assert build(aggregation="learned_seeds").matching == "ordered"


@pytest.mark.parametrize("aggregation", ["density_peaks", "learned_seeds"])
def test_every_parameter_learns_from_the_task_and_the_teacher(aggregation):
    model, batch = build(teacher="teacher", aggregation=aggregation).train(), batch_of()
    output = model(batch)
    (sum(head.total.square().sum() for head in output.heads.values()) + sum(output.losses.values())).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    same_for_all = ("attention.bias.4.bias", "aggregate.importance.bias")
    assert [name for name in still if not name.endswith(same_for_all)] == []


@pytest.mark.parametrize("form", ["gram", "variance"])
def test_consistency_between_magnifications_when_asked_for(form):
    batch = slides(batch_of())
    model = build(consistency=form, consistency_weight=2, dropout=0.0).train()
    with torch.no_grad():
        loss = model(batch).losses["consistency"]
        maps = []
        for name, bag in (("10x", "tiles_10x"), ("20x", "tiles")):
            reader = model.readers[name]
            normed, _ = reader.read(batch[bag], batch[f"{bag}_place"])
            maps.append(reader.attention.attention(normed, normed).flatten(1))
        if form == "gram":
            one, other = (nn.functional.normalize((m - 1 / 9) @ (m - 1 / 9).T) for m in maps)
            expected = (one - other).square().sum() / 3
        else:
            expected = nn.functional.normalize(maps[0] @ maps[1].T).diagonal().var()
    torch.testing.assert_close(loss, 2 * expected, rtol=1e-3, atol=1e-6)


def test_tile_scores_are_the_weights_that_tokens_are_made_with():
    model, batch = build().eval(), slides(batch_of())
    scores = model.tile_scores(batch)
    assert list(scores) == ["attention_token_1", "attention_token_2"]
    reader = model.readers["20x"]
    normed, embedded = reader.read(batch["tiles"], batch["tiles_place"])
    tokens = reader.aggregate.norm(embedded + reader.attention(normed, normed)[0])
    _, cluster = density_peaks(tokens, 2)
    for k, weights in enumerate(scores.values()):
        assert weights.shape == (3, 36)
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        assert ((weights > 0) == (cluster == k)).all()
    seeds = build(aggregation="learned_seeds").eval().tile_scores(batch)
    assert list(seeds) == ["attention_tumour", "attention_microenvironment"]


def test_one_attention_reads_the_slide():
    model, batch = build().eval(), slides(batch_of())
    points = model.sampling_points(batch)
    assert list(points) == ["slide"]
    attention = model.readers["20x"].attention
    normed, _ = model.readers["20x"].read(batch["tiles"], batch["tiles_place"])
    torch.testing.assert_close(points["slide"].at, attention.on_map(attention.geometry(normed).points))
    torch.testing.assert_close(points["slide"].attention, attention.attention(normed, normed).mean(2))


@pytest.mark.parametrize(
    ("params", "batch", "message"),
    [
        ({"aggregation": "mean"}, None, "aggregation: 'mean' is not one of density_peaks, learned_seeds"),
        ({"logits": "cox"}, None, "logits: 'cox' is not one of softmax, hazards"),
        ({"matching": "best"}, None, "matching: 'best' is not one of free, ordered"),
        (
            {"teacher": "teacher"},
            slides(batch_of()),
            "teacher.logits_20x is missing: name `logits_20x` under",
        ),
        ({"teacher": "teacher", "tokens": 3}, batch_of(), "3 tokens of width 16 cannot be compared"),
    ],
)
def test_options_and_vectors_that_do_not_fit_are_refused(params, batch, message):
    with pytest.raises(InputError, match=message):
        build(**params).train()(batch)

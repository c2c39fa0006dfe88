"""SNN, AttMIL and Concat against their naive formulation."""

import pytest
import torch

from histofuse.models.attmil import AttMIL
from histofuse.models.concat import Concat
from histofuse.models.layers import AttentionPooling, SelfNormalisingEncoder, bounded_log_hazard
from histofuse.models.snn import SNN


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("features", "count"), [(320, 26_321), (80, 10_961)])
def test_snn_has_the_published_number_of_parameters(features, count):
    assert parameters(SNN({"genes": (features,)}, outputs=1)) == count


@pytest.mark.parametrize(("genes", "count"), [(59, 12_752), (361, 32_080)])
def test_gene_encoder_of_ks_fusion_has_the_published_number_of_parameters(genes, count):
    assert parameters(SelfNormalisingEncoder(genes, (64, 48, 32, 128), 0.1, final_relu=True)) == count


def test_encoder_starts_as_self_normalising_networks_do():
    torch.manual_seed(0)
    first = SelfNormalisingEncoder(1000, (400, 8), 0.25)[0]
    assert first.weight.std().item() == pytest.approx(1000**-0.5, rel=0.02)
    assert not first.bias.any()


def test_attention_equals_softmax_over_the_repeated_bag():
    """Tiles 0 and 1 of a slide with three tiles stand twice in a bag of five: counts give the same as repeating."""
    torch.manual_seed(1)
    pooling = AttentionPooling(6, hidden=4)
    tiles = torch.randn(1, 3, 6)
    repeated = tiles[:, [0, 1, 2, 0, 1]]
    score = pooling.score(torch.tanh(pooling.hidden(repeated)))
    expected = (torch.softmax(score, dim=1) * repeated).sum(1)
    torch.testing.assert_close(pooling(tiles, torch.tensor([[2.0, 2.0, 1.0]])), expected)


def test_padding_has_no_influence():
    torch.manual_seed(2)
    model = AttMIL({"tiles": (6,)}, outputs=3).eval()
    tiles = torch.randn(2, 4, 6)
    count = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    alone = model({"tiles": tiles[1:, :2], "tiles_count": count[1:, :2]})
    torch.testing.assert_close(model({"tiles": tiles, "tiles_count": count})[1:], alone)


def test_order_of_tiles_does_not_matter():
    torch.manual_seed(3)
    model = AttMIL({"tiles": (5,)}, outputs=1).eval()
    tiles, count, order = torch.randn(1, 7, 5), torch.ones(1, 7), torch.randperm(7)
    torch.testing.assert_close(
        model({"tiles": tiles, "tiles_count": count}), model({"tiles": tiles[:, order], "tiles_count": count})
    )


def test_concat_is_a_linear_map_of_both_vectors():
    torch.manual_seed(4)
    model = Concat({"alterations": (3,), "tiles": (6,), "expression": (5,)}, outputs=2).eval()
    batch = {
        "alterations": torch.randn(4, 3),
        "expression": torch.randn(4, 5),
        "tiles": torch.randn(4, 9, 6),
        "tiles_count": torch.ones(4, 9),
    }
    path = model.path(model.pooling(batch["tiles"], batch["tiles_count"]))
    genes = model.genes(torch.cat([batch["alterations"], batch["expression"]], 1))
    assert path.shape == genes.shape == (4, 128)
    w_path, w_genes = model.head.weight.split(128, dim=1)
    torch.testing.assert_close(model(batch), path @ w_path.T + genes @ w_genes.T + model.head.bias)


@pytest.mark.parametrize("blocks", [(), ("expression",)])
def test_outputs_of_tiles_weighted_by_attention_are_the_images_part_of_the_output(blocks):
    torch.manual_seed(6)
    shapes = {"tiles": (6,)} | dict.fromkeys(blocks, (5,))
    model = (Concat if blocks else AttMIL)(shapes, outputs=3).eval()
    batch = {"tiles": torch.randn(2, 4, 6), "tiles_count": torch.tensor([[2.0, 2, 1, 1], [3, 3, 0, 0]])}
    batch |= {name: torch.randn(2, 5) for name in blocks}
    scores = model.tile_scores(batch)
    assert scores["attention"].shape == (2, 4)
    assert scores["output"].shape == (2, 4, 3)
    image = torch.einsum("bt,bto->bo", scores["attention"], scores["output"])
    without = model(batch | {"tiles": torch.zeros(2, 4, 6)}) - model.tile_scores(
        batch | {"tiles": torch.zeros(2, 4, 6)}
    )["output"].mean(dim=1)
    torch.testing.assert_close(model(batch) - without, image)


def test_every_parameter_of_every_model_gets_a_gradient():
    torch.manual_seed(5)
    shapes = {"tiles": (6,), "expression": (5,)}
    batch = {"tiles": torch.randn(4, 9, 6), "tiles_count": torch.ones(4, 9), "expression": torch.randn(4, 5)}
    for model in (SNN({"expression": (5,)}, 2), AttMIL({"tiles": (6,)}, 2), Concat(shapes, 2)):
        model(batch)[:, 0].square().sum().backward()
        # A softmax over tiles does not feel a constant in the score, so that one bias cannot get any.
        silent = [name for name, p in model.named_parameters() if p.grad is None]
        assert silent == []


def test_bounded_log_hazard_stays_within_three():
    z = torch.tensor([-100.0, 0.0, 100.0])
    assert bounded_log_hazard(z).tolist() == [-3.0, 0.0, 3.0]
    torch.manual_seed(0)
    model = SNN({"genes": (4,)}, 1, bounded=True).eval()
    assert model({"genes": 1e3 * torch.randn(50, 4)}).abs().max() <= 3

"""Density-peak aggregation against a plain loop in double precision, its ties and copies, and the learned queries."""

import numpy as np
import pytest
import torch

from histofuse.io import InputError
from histofuse.models.token_aggregation import (
    DensityPeaks,
    LearnedSeeds,
    density,
    density_peaks,
    separation,
    squared_distances,
)


def tokens_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(points, clusters, neighbours=5):
    """Density, separation, centres and clusters of [point, width], one pair of points after the other."""
    x = points.double().numpy()
    n = len(x)
    distance = np.array([[np.sqrt(((x[i] - x[j]) ** 2).sum() / x.shape[1]) for j in range(n)] for i in range(n)])
    dense = np.array([np.exp(-np.mean(np.sort(distance[i])[:neighbours] ** 2)) for i in range(n)])
    apart = np.empty(n)
    for i in range(n):
        denser = [j for j in range(n) if (-dense[j], j) < (-dense[i], i)]
        apart[i] = min(distance[i, j] for j in denser) if denser else distance[i].max()
    centres = np.lexsort((np.arange(n), -dense * apart))[:clusters]
    return dense, apart, centres, distance[centres].argmin(0)


@pytest.mark.parametrize("seed", range(3))
def test_peaks_are_those_of_the_plain_loop(seed):
    tokens = tokens_of(2, 60, 16, seed=seed)
    centres, cluster = density_peaks(tokens, 4)
    for k, points in enumerate(tokens):
        dense, apart, expected, assigned = by_loops(points, 4)
        squared = squared_distances(points)
        np.testing.assert_allclose(density(squared, 5), dense, rtol=1e-5)
        np.testing.assert_allclose(separation(squared, torch.tensor(dense)), apart, rtol=1e-5)
        assert centres[k].tolist() == expected.tolist()
        assert cluster[k].tolist() == assigned.tolist()


def test_two_clouds_are_two_clusters_with_the_denser_one_first():
    loose, tight = tokens_of(1, 20, 8), 0.3 * tokens_of(1, 30, 8, seed=1) + 6
    centres, cluster = density_peaks(torch.cat([loose, tight], 1), 2)
    assert cluster[0].tolist() == [1] * 20 + [0] * 30
    assert centres[0, 0] >= 20 > centres[0, 1]


def test_the_nearest_point_is_the_point_itself():
    squared = squared_distances(torch.tensor([[0.0], [1.0], [3.0], [7.0]]))
    torch.testing.assert_close(density(squared, 1), torch.ones(4))
    torch.testing.assert_close(density(squared, 3), torch.exp(-torch.tensor([10.0, 5.0, 13.0, 52.0]) / 3))


def test_copies_are_at_distance_0_in_float32():
    points = torch.nn.functional.layer_norm(tokens_of(7, 128), (128,)).repeat(40, 1)
    squared = squared_distances(points)
    same = torch.arange(280)[:, None] % 7 == torch.arange(280) % 7
    assert (squared[same] == 0).all()
    assert (squared[~same] > 0.1).all()


def test_of_copies_of_a_peak_only_the_first_is_a_centre():
    """A map of 9 tiles that repeats 4 times: without a rule for ties both centres could be one tile."""
    one = tokens_of(1, 9, 16)
    centres, cluster = density_peaks(one.repeat(1, 4, 1), 3)
    tiles = (centres[0] % 9).tolist()
    assert centres[0].max() < 9
    assert len(set(tiles)) == 3
    assert cluster.view(4, 9).unique(dim=0).shape == (1, 9)
    assert density_peaks(one.repeat(1, 4, 1), 3)[0].tolist() == centres.tolist()


def test_where_all_neighbours_are_copies_the_densities_say_nothing():
    one = tokens_of(4, 16)
    tokens = one.repeat(6, 1)
    assert (density(squared_distances(tokens), 5) == 1).all()
    centres, _ = density_peaks(tokens[None], 2)
    to_earlier = [0.0] + [(one[i] - one[:i]).norm(dim=1).min().item() for i in range(1, 4)]
    assert centres[0].tolist()[0] == 0
    assert centres[0].tolist()[1] == int(np.argmax(to_earlier))


def test_no_cluster_is_empty_even_when_all_tokens_are_equal():
    layer = DensityPeaks(8)
    torch.nn.init.normal_(layer.norm.bias)
    merged, weights = layer(torch.ones(2, 9, 8))
    assert weights.sum(-1).tolist() == [[1, 1], [1, 1]]
    torch.testing.assert_close(merged, layer.norm.bias.expand(2, 2, 8))


def test_merged_tokens_are_weighted_means_of_their_clusters():
    torch.manual_seed(0)
    layer, tokens = DensityPeaks(16, tokens=3).double(), tokens_of(2, 40, 16).double()
    merged, weights = layer(tokens)
    normed = layer.norm(tokens)
    _, cluster = density_peaks(normed, 3)
    importance = torch.exp(layer.importance(normed))[..., 0]
    for sample in range(2):
        for k in range(3):
            w = importance[sample] * (cluster[sample] == k)
            torch.testing.assert_close(weights[sample, k].double(), w / w.sum(), atol=1e-6, rtol=1e-6)
            expected = (w[:, None] * normed[sample]).sum(0) / w.sum()
            torch.testing.assert_close(merged[sample, k].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    assert ((weights > 0).sum(1) == 1).all()


def test_large_importances_do_not_overflow():
    layer = DensityPeaks(8)
    torch.nn.init.constant_(layer.importance.bias, 500)
    assert layer(tokens_of(1, 9, 8))[0].isfinite().all()


def test_gradients_reach_importance_and_tokens_with_the_assignment_held():
    torch.manual_seed(0)
    layer, tokens = DensityPeaks(8), tokens_of(2, 30, 8).requires_grad_()
    probe = tokens_of(2, 2, 8, seed=1)
    (layer(tokens)[0] * probe).sum().backward()
    assert layer.importance.weight.grad.abs().sum() > 0

    again = tokens.detach().clone().requires_grad_()
    normed = layer.norm(again)
    _, cluster = density_peaks(normed, 2)
    assert not cluster.requires_grad
    importance = torch.exp(layer.importance(normed)) * torch.nn.functional.one_hot(cluster, 2)
    held = torch.einsum("btk,btw->bkw", importance / importance.sum(1, keepdim=True), normed)
    (held * probe).sum().backward()
    torch.testing.assert_close(tokens.grad, again.grad)


def test_a_learned_query_pools_what_it_attends_to():
    torch.manual_seed(0)
    layer, tokens = LearnedSeeds(8), tokens_of(2, 30, 8)
    merged, weights = layer(tokens)
    for k in range(2):
        attention = torch.softmax(layer.norm(tokens) @ layer.seeds[k] / 8**0.5, dim=1)
        torch.testing.assert_close(weights[:, k], attention)
        torch.testing.assert_close(merged[:, k], torch.einsum("bt,btw->bw", attention, layer.norm(tokens)))
    order = torch.randperm(30)
    torch.testing.assert_close(layer(tokens[:, order])[0], merged)
    merged.square().sum().backward()
    assert layer.seeds.grad.abs().sum() > 0


def test_more_tokens_than_a_bag_holds_are_refused():
    with pytest.raises(InputError, match="tokens: 5 cannot be made of a bag of 4; give a larger bag"):
        density_peaks(tokens_of(1, 4, 8), 5)

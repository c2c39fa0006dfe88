"""MLP-A: losses and scores against formulas, torch, scipy and scikit-learn; the same bits; donors held out."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from smoothing_examples import atlas

from histofuse.genomics.smoothing.mixup import draw_mixes, mixed_profiles
from histofuse.genomics.smoothing.mlp import (
    LOSSES,
    fit,
    held_out_scores,
    initial_weights,
    losses,
    predict,
    smooth,
)
from histofuse.io import InputError

CELLS = atlas()
WIDTH = 32


def embed(profiles):
    """An encoder for tests: a fixed curved map to the unit sphere."""
    random = np.random.default_rng(0)
    values = np.tanh(np.log1p(profiles) @ random.normal(0, 0.25 / math.sqrt(80), (80, WIDTH)))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def bank(cells, n, part="train", seed=0, mixing=True):
    mixes = draw_mixes(cells, n, part, seed, mixing)
    return embed(mixed_profiles(cells, mixes, cells.genes)), mixes.target


TRAIN, MIXED = bank(CELLS, 4000), bank(CELLS, 500, "held_out")
SINGLE = bank(CELLS, 300, "held_out", mixing=False)
TRAINED = fit(*TRAIN, passes=2)


def torch_network(weights):
    """The same network of torch's own layers."""
    sizes = [WIDTH, 128, 128, 128]
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    body = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    head = torch.nn.Linear(128, 4)
    with torch.no_grad():
        for k, layer in enumerate([*layers, head]):
            name = "classifier" if layer is head else f"layers.{k}"
            layer.weight.copy_(torch.from_numpy(weights[f"{name}.weight"]))
            layer.bias.copy_(torch.from_numpy(weights[f"{name}.bias"]))
    return body, head


def test_the_network_is_the_one_of_the_paper():
    weights = TRAINED[0]
    assert sum(value.size for value in initial_weights(512, 17).values()) == 512 * 128 + 2 * 128**2 + 3 * 128 + 129 * 17
    body, head = torch_network(weights)
    with torch.no_grad():
        hidden = body(torch.from_numpy(MIXED[0]) * math.sqrt(WIDTH))
        logits = head(hidden).numpy()
    found = smooth(weights, MIXED[0])
    assert found.shape == (500, 128)
    assert found.dtype == np.float32
    assert found.min() < 0  # no ReLU after the last layer
    np.testing.assert_allclose(found, hidden.numpy(), atol=1e-5)
    positive = np.maximum(logits, 0)
    np.testing.assert_allclose(predict(weights, MIXED[0]), positive / positive.sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(predict(weights, MIXED[0], "mse_softmax"), softmax(logits, axis=1), atol=1e-5)


def test_one_training_step_is_adams():
    start = initial_weights(WIDTH, 4, seed=9)
    body, head = torch_network(start)
    optimiser = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=1e-3)
    x, y = (torch.from_numpy(part[:32]) for part in TRAIN)
    torch.nn.functional.mse_loss(head(body(x * math.sqrt(WIDTH))), y).backward()
    optimiser.step()
    found, history = fit(TRAIN[0][:32], TRAIN[1][:32], seed=9)
    np.testing.assert_allclose(found["layers.0.weight"], body[0].weight.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(found["classifier.bias"], head.bias.detach().numpy(), atol=1e-6)
    assert history["step"].tolist() == [1]


def test_the_start_is_torchs_own_for_linear_layers():
    weights = initial_weights(WIDTH, 4)
    for name, fan_in in (("layers.0", WIDTH), ("layers.1", 128), ("classifier", 128)):
        for part in ("weight", "bias"):
            values = weights[f"{name}.{part}"]
            assert np.abs(values).max() <= 1 / math.sqrt(fan_in)
        assert weights[f"{name}.weight"].std() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.1)
    assert not np.array_equal(weights["layers.1.weight"], weights["layers.2.weight"])


def test_losses_are_their_formulas():
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(20, 4)), random.dirichlet(np.ones(4), 20)
    found = losses(logits, targets)
    assert tuple(found) == LOSSES
    assert found["mse_logits"] == pytest.approx(np.mean((logits - targets) ** 2), rel=1e-12)
    assert found["mse_softmax"] == pytest.approx(np.mean((softmax(logits, axis=1) - targets) ** 2), rel=1e-12)
    by_torch = torch.nn.CrossEntropyLoss()(torch.from_numpy(logits), torch.from_numpy(targets)).item()
    assert found["soft_cross_entropy"] == pytest.approx(by_torch, rel=1e-12)
    by_hand = -(targets * log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert found["soft_cross_entropy"] == pytest.approx(by_hand, rel=1e-12)


def test_the_schedule_is_a_cosine_and_every_mixture_is_seen():
    _, history = fit(TRAIN[0][:1000], TRAIN[1][:1000], passes=3, lr=0.002)
    assert history.columns.tolist() == ["step", "mixtures", "lr", "loss"]
    assert history["step"].iloc[-1] == 96
    assert history["mixtures"].iloc[-1] == 3000
    expected = 0.002 * 0.5 * (1 + np.cos(np.pi * (history["step"] - 1) / 96))
    np.testing.assert_allclose(history["lr"], expected, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_the_shares_of_held_out_mixtures(loss):
    weights, history = fit(*TRAIN, loss=loss, passes=2)
    assert history["loss"].iloc[-5:].mean() < 0.7 * history["loss"].iloc[:5].mean()
    scores = held_out_scores(weights, MIXED, SINGLE, TRAIN[1], loss=loss)
    assert scores[loss] < 0.7 * scores[f"chance_{loss}"]
    assert scores["mean_absolute_error"] < 0.6 * scores["chance_mean_absolute_error"]
    assert scores["pearson"] > 0.8
    assert scores["accuracy"] > 0.7 > 0.35 > scores["chance_accuracy"]


def test_the_same_seed_gives_the_same_bits_and_threads_are_given_back():
    before = torch.get_num_threads()
    state = torch.random.get_rng_state()
    again = fit(*TRAIN, passes=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == before
    assert all(again[0][name].tobytes() == value.tobytes() for name, value in TRAINED[0].items())
    assert again[1].equals(TRAINED[1])
    other = fit(*TRAIN, passes=2, seed=1)[0]
    assert not np.array_equal(other["classifier.weight"], TRAINED[0]["classifier.weight"])


def test_smoothing_does_not_depend_on_company():
    whole = smooth(TRAINED[0], MIXED[0])
    parts = np.concatenate([smooth(TRAINED[0], MIXED[0][rows]) for rows in np.array_split(np.arange(500), 17)])
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_cells_of_held_out_donors_change_no_weight():
    noise = CELLS.counts.toarray()
    noise[CELLS.held_out] = np.random.default_rng(1).poisson(50, (CELLS.held_out.sum(), 80))
    library = np.where(CELLS.held_out, noise.sum(axis=1), CELLS.library)
    other = dataclasses.replace(CELLS, counts=type(CELLS.counts)(noise), library=library)
    found = fit(*bank(other, 4000), passes=2)[0]
    assert all(found[name].tobytes() == value.tobytes() for name, value in TRAINED[0].items())


def test_standardised_inputs_are_folded_into_the_first_layer():
    far = TRAIN[0] + np.float32(3)  # hardly differs from its mean
    far[:, 5] = 2
    mean, sd = far.mean(axis=0, dtype=float), far.std(axis=0, dtype=float)
    sd[5] = 1
    z = ((far - mean) / sd / math.sqrt(WIDTH)).astype(np.float32)
    folded, direct = fit(far, TRAIN[1], standardise=True)[0], fit(z, TRAIN[1])[0]
    np.testing.assert_allclose(smooth(folded, far), smooth(direct, z), atol=1e-4)
    plain = fit(far, TRAIN[1])[0]
    scores = [held_out_scores(weights, (far, TRAIN[1]), SINGLE, TRAIN[1])["pearson"] for weights in (folded, plain)]
    assert scores[0] > scores[1] + 0.1


def test_mixing_embeddings_is_a_control_of_its_own():
    single = bank(CELLS, 4000, mixing=False)
    plain, mixed = fit(*single)[0], fit(*single, mix_embeddings=True)[0]
    assert not np.allclose(plain["classifier.weight"], mixed["classifier.weight"], atol=1e-3)
    assert held_out_scores(mixed, MIXED, SINGLE, single[1])["pearson"] > 0.7
    # Rows that are all the same stay what they are when they are mixed.
    same = [np.repeat(part[:1], 64, axis=0) for part in single]
    for name, value in fit(*same)[0].items():
        np.testing.assert_allclose(value, fit(*same, mix_embeddings=True)[0][name], atol=1e-5)


def test_scores_agree_with_scipy_and_scikit_learn():
    weights = TRAINED[0]
    scores = held_out_scores(weights, MIXED, SINGLE, TRAIN[1])
    shares = predict(weights, MIXED[0]).astype(float)
    truth = MIXED[1].astype(float)
    by_class = [pearsonr(shares[:, k], truth[:, k])[0] for k in range(4)]
    assert scores["pearson"] == pytest.approx(np.mean(by_class), abs=1e-6)
    assert scores["pearson_pooled"] == pytest.approx(pearsonr(shares.ravel(), truth.ravel())[0], abs=1e-6)
    assert scores["mean_absolute_error"] == pytest.approx(np.abs(shares - truth).mean(), abs=1e-6)
    labels, guess = SINGLE[1].argmax(1), predict(weights, SINGLE[0]).argmax(1)
    assert scores["confusion"] == confusion_matrix(labels, guess).tolist()
    assert scores["accuracy"] == pytest.approx((labels == guess).mean())
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guess))
    prior = TRAIN[1].mean(axis=0, dtype=float)
    assert scores["chance_mse_logits"] == pytest.approx(((prior - truth) ** 2).mean())
    entropy = torch.nn.functional.cross_entropy(torch.log(torch.tensor(prior)).expand(500, 4), torch.tensor(truth))
    assert scores["chance_soft_cross_entropy"] == pytest.approx(entropy.item())
    assert scores["chance_accuracy"] == pytest.approx((labels == prior.argmax()).mean())
    assert scores["chance_balanced_accuracy"] == 0.25


def test_untrained_weights_are_at_chance():
    scores = held_out_scores(initial_weights(WIDTH, 4), MIXED, SINGLE, TRAIN[1])
    assert scores["mean_absolute_error"] > 0.8 * scores["chance_mean_absolute_error"]
    assert scores["accuracy"] < 0.6


def test_outputs_below_zero_become_equal_shares():
    weights = initial_weights(WIDTH, 4)
    weights["classifier.weight"] *= 0
    weights["classifier.bias"] = np.array([-1, -2, -3, -4], np.float32)
    np.testing.assert_allclose(predict(weights, MIXED[0][:2]), 0.25)
    scores = held_out_scores(weights, MIXED, SINGLE, TRAIN[1])
    assert scores["pearson"] is None


def broken(position, amount):
    def change(x, y):
        x = x.copy()
        x[position] = amount
        return x, y

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (broken((3, 1), np.nan), {}, "embedding 3 is not finite"),
        (lambda x, y: (x, y[:-1]), {}, r"64 embeddings, but targets of the shape \(63, 4\)"),
        (lambda x, y: (x, 2 * y), {}, "targets are shares of the classes"),
        (lambda x, y: (x[0], y), {}, r"shape \(32,\), not \[row, width\]"),
        (None, {"loss": "mse"}, "loss 'mse' is not one of mse_logits, mse_softmax"),
        (None, {"passes": 0}, "passes 0, batch_size 32 and lr 0.001 must be above 0"),
        (None, {"lr": 1e30, "passes": 9}, r"diverged at lr 1e\+30"),
    ],
)
def test_unsuitable_training_is_named(change, options, message):
    rows = TRAIN[0][:64], TRAIN[1][:64]
    with pytest.raises(InputError, match=message):
        fit(*(change(*rows) if change else rows), **options)


def test_weights_that_do_not_fit_are_named():
    weights = TRAINED[0]
    with pytest.raises(InputError, match=r"layers\.0\.weight has the shape \(128, 32\), embeddings of width 31 need"):
        smooth(weights, MIXED[0][:, :31])
    with pytest.raises(InputError, match=r"lack classifier\.bias and have extra too much"):
        smooth({name: v for name, v in weights.items() if name != "classifier.bias"} | {"extra": weights}, MIXED[0])
    with pytest.raises(InputError, match="the weights have 4 classes, mixtures 3"):
        held_out_scores(weights, (MIXED[0], np.full((500, 3), 1 / 3)), SINGLE, TRAIN[1])

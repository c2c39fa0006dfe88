"""Coordination in the loop: whole runs of a model whose decoder joins two branches."""

import numpy as np
import pandas as pd
import pytest
import torch
from branch_examples import train, two_branch_split
from killed_runs import kill_after
from torch import nn

from histofuse.io import InputError
from histofuse.models.output import Output
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head

COORDINATION = {"kind": "coordination", "min_pairs": 20}


class Decoder(nn.Module):
    """One linear layer over both branches' vectors; each part has its half of the weights and half the bias."""

    def __init__(self, width, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, 2 * width) / 4), nn.Parameter(torch.zeros(outputs))

    def forward(self, vectors):
        halves = self.weight.chunk(2, dim=1)
        parts = {name: v @ half.T + self.bias / 2 for (name, v), half in zip(vectors.items(), halves)}
        return Output(sum(parts.values()), parts)


class Joined(nn.Module):
    """Two hidden layers and a decoder; with `heads` one decoder for each, and a loss of the model's own."""

    def __init__(self, outputs=1, heads=("",), own=0.0):
        super().__init__()
        self.genes, self.image = nn.Linear(5, 8), nn.Linear(5, 8)
        self.heads = nn.ModuleDict({f"of_{head}": Decoder(8, outputs) for head in heads})
        self.own = own

    def forward(self, batch):
        vectors = {"genomic": torch.tanh(self.genes(batch["genes"])), "image": torch.tanh(self.image(batch["image"]))}
        heads = {name.removeprefix("of_"): decoder(vectors) for name, decoder in self.heads.items()}
        if list(heads) == [""]:
            return heads[""]
        own = {"closeness": self.own * (vectors["genomic"] - vectors["image"]).square().mean()}
        return Output(sum(head.total for head in heads.values()), heads=heads, losses=own if self.training else {})

    def branches(self):
        return {"genomic": list(self.genes.parameters()), "image": list(self.image.parameters())}

    def decoders(self):
        return {name.removeprefix("of_"): decoder.weight for name, decoder in self.heads.items()}


def two_headed():
    return Joined(heads=("10x", "20x"), own=0.5)


@pytest.fixture
def split():
    return two_branch_split()


def run(split, folder, build=Joined, **settings):
    return train(split, folder, build, **({"modulation": COORDINATION} | settings))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_the_history_tells_of_conflicts_and_confidences(split, tmp_path):
    """The genes are trusted more, so that only the image's half is ever projected."""
    plain, _ = run(split, tmp_path, name="plain.pt", modulation=None)
    model, history = run(split, tmp_path, epochs=8)
    assert history["conflict"].between(0, 1).all()
    assert history["conflict"].max() > 0
    assert history["cosine"].between(-1, 1).all()
    last = history.iloc[-1]
    assert last["confidence_genomic"] > last["confidence_image"] > 0.5
    assert history["projected_image"].max() > 0
    assert (history["projected_genomic"] + history["projected_image"] <= history["conflict"] + 1e-12).all()
    assert not any(name.startswith(("rho", "k_")) for name in history)
    assert not same(plain, model)


@pytest.mark.parametrize("options", [{"min_pairs": 10**9}, {"confidence": "likelihood", "granularity": "row"}])
def test_only_a_trusted_branch_and_a_conflict_change_the_run(split, tmp_path, options):
    """Without enough pairs a run takes the very steps, and the optimiser's weight decay, of one without."""
    settings = {"weight_decay": 0.1, "clip_norm": 1.0, "optimiser": "adagrad"}
    plain, _ = run(split, tmp_path, name="plain.pt", modulation=None, **settings)
    model, history = run(split, tmp_path, modulation=COORDINATION | options, **settings)
    assert same(plain, model) == ("confidence" not in options)
    assert history["confidence_genomic"].isna().all() == ("confidence" not in options)


@pytest.mark.parametrize("build", [Joined, two_headed])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_an_interrupted_run_goes_on_to_the_same_bits(split, tmp_path, monkeypatch, build, optimiser):
    settings = {"optimiser": optimiser, "weight_decay": 0.01, "clip_norm": 1.0, "batch_size": 12}
    whole, history = run(split, tmp_path, build, name="whole.pt", **settings)
    kill_after(2, monkeypatch, lambda: run(split, tmp_path, build, **settings))
    resumed, resumed_history = run(split, tmp_path, build, **settings)
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))


def test_heads_have_columns_of_their_own_and_losses_too(split, tmp_path):
    _, history = run(split, tmp_path, two_headed)
    columns = ("conflict", "cosine", "projected_genomic", "projected_image", "confidence_genomic", "confidence_image")
    assert {f"{column}_{head}" for column in columns for head in ("10x", "20x")} <= set(history)
    assert history["loss_closeness"].gt(0).all()
    assert (history["loss"] > history["loss_closeness"]).all()


@pytest.mark.parametrize("loss", ["discrete", "cross_entropy"])
def test_other_losses_are_judged_as_their_task_has_it(split, tmp_path, loss):
    head = Head(split.target, {"name": "discrete", "intervals": 4})
    if loss == "cross_entropy":
        label = (split.blocks["genes"][:, 0] > 0).astype(np.int64) + (split.blocks["image"][:, 0] > 0)
        split = Split(split.rows, Target("classification", np.zeros(0), np.zeros(0), label, 3), split.blocks)
        head = Head(split.target, {"name": loss})
    _, history = run(split, tmp_path, lambda: Joined(head.outputs), head=head)
    assert history["conflict"].max() > 0
    confidence = history[["confidence_genomic", "confidence_image"]]
    assert confidence.stack().between(0, 1).all()
    assert (confidence.iloc[-1] > confidence.iloc[0]).all()


def test_a_model_of_heads_cannot_be_balanced(split, tmp_path):
    with pytest.raises(InputError, match="kind: balance: judges one output, the model has the heads 10x, 20x"):
        run(split, tmp_path, two_headed, modulation={})

"""Balanced training where it should help: a simulated cohort in which the genomic branch is the stronger one.

Log hazard 3z/2 + w/2. Genes tell z clearly; images tell z and w through much noise. Two small networks, trained
together with and without modulation on 400 cases, half of them dying, are judged on 2,000 others: their sum, and each
branch alone. Everything is drawn anew for each seed, and is the same for all that are compared under it.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t
from torch import nn

from histofuse.evaluation.survival import harrell_c
from histofuse.models.output import Output
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head
from histofuse.training.loop import Batches, Settings, fit, predict, predict_parts

SEEDS = range(10)
TRAIN, TEST = 400, 2000
APPLIED = ("none", "learning_rate", "gradient")
TRAINING = {
    "SGD": {"optimiser": "sgd", "lr": 0.01},
    "SGD, images at a tenth of the learning rate": {"optimiser": "sgd", "lr": 0.01, "branch_lr": {"image": 0.001}},
    "AdamW": {"optimiser": "adamw", "lr": 0.0005},
}


class Additive(nn.Module):
    """W^G·G + W^P·P + b on two networks of two layers; `alone` leaves the image branch by itself."""

    def __init__(self, alone=False):
        super().__init__()
        self.alone = alone
        self.genes, self.image = (
            nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()) for _ in range(2)
        )
        self.heads = nn.ModuleList(nn.Linear(32, 1, bias=False) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        image = self.heads[1](self.image(batch["image"])) + self.bias / 2
        if self.alone:
            return image
        genes = self.heads[0](self.genes(batch["genes"])) + self.bias / 2
        return Output(genes + image, {"genomic": genes, "image": image})

    def branches(self):
        return {"genomic": list(self.genes.parameters()), "image": list(self.image.parameters())}


def simulate(seed):
    rng = np.random.default_rng(seed)
    n = TRAIN + TEST
    z, w = rng.normal(size=(2, n))
    genes = np.outer(z, rng.normal(size=40)) + rng.normal(size=(n, 40)) * 2
    image = np.outer(z, rng.normal(size=40)) / 4 + np.outer(w, rng.normal(size=40)) / 4
    image = np.tanh(image + rng.normal(size=image.shape) * 2)
    died, left = rng.exponential(np.exp(-1.5 * z - w / 2)), rng.exponential(1.0, n)
    rows = pd.DataFrame({"case_id": [f"C{k}" for k in range(n)], "part": ["train"] * TRAIN + ["test"] * TEST})
    target = Target("survival", np.minimum(died, left), (died <= left).astype(np.int64), np.zeros(0, int))
    blocks = {"genes": genes, "image": image}
    return Split(rows, target, {name: (x / x.std(0)).astype(np.float32) for name, x in blocks.items()})


def train(split, seed, training, apply, folder):
    """C-index of the sum, of the genomic and of the image branch, shares of steps with ρ^G > 1 and k^G < 1, mean k^G.

    `apply` None: the image network by itself, its C-index alone.
    """
    head = Head(split.target.take(split.part("train")), {"name": "cox"})
    settings = Settings(
        epochs=50,
        batch_size=32,
        weight_decay=1e-4,
        clip_norm=1.0,
        modulation=None if apply is None else {"apply": apply},
        **training,
    )
    model, history = fit(
        lambda: Additive(alone=apply is None),
        split,
        head.torch_loss(split, settings.rule),
        head.criterion(split),
        settings,
        seed,
        folder / f"{seed} {apply}.pt",
        f"{seed} {training} {apply}",
    )
    test, batches = split.part("test"), Batches(split, torch.device("cpu"))
    c = [harrell_c(predict(model, batches, test)[:, 0], split.target.time[test], split.target.event[test])]
    if apply is None:
        return c[0]
    for part in predict_parts(model, batches, test).values():
        c.append(harrell_c(part[:, 0], split.target.time[test], split.target.event[test]))
    k = np.concatenate(history["k_steps_genomic"].to_list())
    rho = np.concatenate(history["rho_steps_genomic"].to_list())
    return (*c, (rho > 1).mean(), (k < 1).mean(), k.mean())


def interval(values):
    """Mean and half-width of its 95 % t-interval over seeds."""
    return f"{np.mean(values):+.4f} ± {t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5:.4f}"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr("histofuse.training.loop.progress", lambda items, label: items)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", TRAINING)
def test_what_modulation_does_to_the_weaker_branch(tmp_path, name):
    found = {apply: [] for apply in APPLIED}
    alone = []
    for seed in SEEDS:
        split = simulate(seed)
        alone.append(train(split, seed, TRAINING[name], None, tmp_path))
        for apply in APPLIED:
            found[apply].append(train(split, seed, TRAINING[name], apply, tmp_path))
    found = {apply: np.array(values).T for apply, values in found.items()}
    print(f"\n{name}, {len(SEEDS)} seeds; image network trained alone: C {np.mean(alone):.4f}")
    print("  applied to     C sum   C genomic  C image   steps with ρ^G > 1   k^G < 1   mean k^G")
    for apply, (total, genomic, image, ahead, slowed, k) in found.items():
        figures = [f"{np.mean(x):.4f}" for x in (total, genomic, image)] + [
            f"{np.mean(x):.3f}" for x in (ahead, slowed, k)
        ]
        print(f"  {apply:13} " + "    ".join(figures))
    for apply in APPLIED[1:]:
        gain = found[apply] - found["none"]
        print(
            f"  {apply:13} − none: C image {interval(gain[2])}, C sum {interval(gain[0])} (95 % t-interval over seeds)"
        )
    assert found["none"][3].mean() > 0.5  # the genomic branch leads in most steps
    assert (found["none"][1] > found["none"][2]).all()

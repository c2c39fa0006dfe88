"""A model of two linear branches, and a split to train it on, for tests of what is done to branches."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from histofuse.models.output import Output
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head
from histofuse.training.loop import Settings, fit


class Two(nn.Module):
    """Two linear branches and their sum."""

    def __init__(self, outputs=1, features=5):
        super().__init__()
        self.genes, self.image = nn.Linear(features, outputs, bias=False), nn.Linear(features, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, batch):
        parts = {"genomic": self.genes(batch["genes"]), "image": self.image(batch["image"])}
        parts = {name: part + self.bias / 2 for name, part in parts.items()}
        return Output(parts["genomic"] + parts["image"], parts)

    def branches(self):
        return {"genomic": [self.genes.weight], "image": [self.image.weight]}


def two_branch_split():
    """Survival that both branches see; the genes much more clearly. 64 cases to train on, 16 to test."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 80, 5)).astype(np.float32)
    time, event = rng.exponential(np.exp(-2 * x[:, 0] - 0.5 * y[:, 0])), (rng.random(80) < 0.8).astype(np.int64)
    rows = pd.DataFrame({"case_id": [f"C{k}" for k in range(80)], "part": ["train"] * 64 + ["test"] * 16})
    return Split(rows, Target("survival", time, event, np.zeros(0, int)), {"genes": x, "image": y})


def head_of(split, **loss):
    return Head(split.target, {"name": "cox"} | loss)


def forward(split, model, rows):
    """The model's output on these rows, in the precision of its weights."""
    dtype = next(model.parameters()).dtype
    return model({name: torch.tensor(values)[rows].to(dtype) for name, values in split.blocks.items()})


def train(split, folder, build=Two, name="c.pt", head=None, **settings):
    """(model, history) of a short run, by default a modulated one."""
    head = head or head_of(split)
    settings = Settings(**({"epochs": 4, "lr": 0.05, "batch_size": 16, "modulation": {}} | settings))
    loss, criterion = head.torch_loss(split, settings.rule), head.criterion(split)
    return fit(build, split, loss, criterion, settings, 0, folder / name, "d")

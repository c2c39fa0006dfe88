"""Speed of training epochs on a CPU, as ratios to the plain loops of public code, at equal loss curves.

The reference reads sample by sample, loops over risk sets in Python and scores the test part after every epoch. Both
sides see the same batches, initial weights, dropout masks and crops, and are timed in turn on one thread, by processor
time, which other work on the machine disturbs least.
"""

import os
import time

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines.utils import concordance_index
from PIL import Image, ImageOps
from test_regions import N, regions  # noqa: F401
from test_speed import report
from torch.utils.data import DataLoader, Dataset, Subset

from histofuse.models.image_survival import ImageSurvival
from histofuse.models.snn import SNN
from histofuse.models.torchvision_shim import ensure_torchvision
from histofuse.training.batches import Batches, batches_of
from histofuse.training.dataset import Split, Target
from histofuse.training.loop import Settings, fit, predict
from histofuse.training.objective import cox
from histofuse.training.regions import NORMALISATIONS, RegionStore

SEED, CPU = 0, torch.device("cpu")
CASES, FEATURES = 769, 320  # of TCGA-GBMLGG in Pathomic Fusion's tables
# Its SNN is trained with these; the T2T-ViT is a small one, so that the benchmark takes seconds.
SNN_SETTINGS = Settings(epochs=50, batch_size=64, lr=0.002, weight_decay=0.0005, l1=0.0003)
T2T_SETTINGS = Settings(epochs=6, batch_size=13, lr=0.003, optimiser="adamw", weight_decay=0.0001)
SMALL_T2T = {"width": 48, "depth": 2, "heads": 3, "token_width": 16}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"\ntorch on 1 thread of {os.cpu_count()} cores")
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def outcome(rng, n):
    """A survival target, its risk, and parts: four fifths of the cases are to train on."""
    risk = rng.normal(size=n)
    target = Target("survival", rng.exponential(np.exp(-risk)) * 1000, rng.integers(0, 2, n), np.zeros(0, np.int64))
    return risk, target, np.where(np.arange(n) < 0.8 * n, "train", "test")


class Samples(Dataset):
    """One row after the other: what the model reads of it, its time and event."""

    def __init__(self, read, target):
        self.read, self.target = read, target

    def __len__(self):
        return len(self.target.time)

    def __getitem__(self, row):
        return self.read(row), torch.tensor(self.target.time[row]), torch.tensor(self.target.event[row])


def risk_set_loop(theta, time_, event):
    """Cox's loss (Breslow, over the batch), a sum for every death."""
    total = 0.0
    for k in range(len(theta)):
        if event[k]:
            at_risk = torch.stack([theta[j] for j in range(len(theta)) if time_[j] >= time_[k]])
            total = total + torch.logsumexp(at_risk, 0) - theta[k]
    return total / len(theta)


def plain_loop(model, name, samples, split, settings, start_epoch=lambda epoch: None):
    """Train as public code does, with the test and the training part scored after every epoch; the mean losses."""
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
    optimiser = adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, settings.lr_factor)
    train, test = split.part("train"), split.part("test")
    own = torch.Generator()  # otherwise a loader takes a number from the generator of the dropout
    curve = []
    for epoch in range(settings.epochs):
        torch.manual_seed(SEED * 100_003 + epoch)
        start_epoch(epoch)
        model.train()
        total, predictions = 0.0, {"train": [], "test": []}
        order = list(batches_of(train, settings.batch_size, SEED, epoch))
        for x, time_, event in DataLoader(samples, batch_sampler=order, generator=own):
            theta = model({name: x}).squeeze(-1)
            loss = risk_set_loop(theta, time_, event)
            if settings.l1:
                l1 = 0.0
                for parameter in model.parameters():
                    l1 = l1 + torch.abs(parameter).sum()
                loss = loss + settings.l1 * l1
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(x)
            predictions["train"].append((theta.detach().numpy(), time_.numpy(), event.numpy()))
        schedule.step()
        model.eval()
        with torch.no_grad():
            for x, time_, event in DataLoader(Subset(samples, test), settings.batch_size, generator=own):
                predictions["test"].append((model({name: x}).squeeze(-1).numpy(), time_.numpy(), event.numpy()))
        for parts in predictions.values():
            theta, time_, event = (np.concatenate(values) for values in zip(*parts))
            concordance_index(time_, -theta, event)
        curve.append(total / len(train))
    return np.array(curve)


def our_loop(build, split, settings, folder, score=True):
    """Train with checkpoints, then predict every row once if asked to; the mean losses."""
    checkpoint = folder / "checkpoint.pt"
    checkpoint.unlink(missing_ok=True)
    model, history = fit(build, split, cox(split.target, CPU), None, settings, SEED, checkpoint, "")
    if score:
        predict(model, Batches(split, CPU), np.arange(len(split.rows)))
    return history["loss"].to_numpy()


def in_turn(rounds, ours, plain, repeats=1):
    """(shortest processor time of each, what each made at last); in every round ours `repeats` times, then plain."""
    seconds, made = {ours: [], plain: []}, {}
    for _ in range(rounds):
        for function in [ours] * repeats + [plain]:
            start = time.process_time()
            made[function] = function()
            seconds[function].append(time.process_time() - start)
            torch.use_deterministic_algorithms(False)  # `fit` asks for them, plain loops do not
    return [min(timings) for timings in seconds.values()], list(made.values())


def test_snn_epoch_against_a_plain_loop(tmp_path):
    rng = np.random.default_rng(0)
    risk, target, parts = outcome(rng, CASES)
    x = rng.normal(size=(CASES, FEATURES)).astype(np.float32)
    x[:, :20] += risk[:, None]
    rows = pd.DataFrame({"case_id": [f"C{k}" for k in range(CASES)], "part": parts})
    split, samples = Split(rows, target, {"genes": x}), Samples(lambda row: torch.tensor(x[row]), target)

    def build():
        return SNN({"genes": (FEATURES,)}, 1)

    def ours():
        return our_loop(build, split, SNN_SETTINGS, tmp_path)

    def plain():
        torch.manual_seed(SEED)
        return plain_loop(build(), "genes", samples, split, SNN_SETTINGS)

    seconds, (curve, expected) = in_turn(3, ours, plain, repeats=3)
    np.testing.assert_allclose(curve, expected, rtol=1e-4)
    assert curve[-1] < curve[0] - 0.1
    assert report("SNN epoch, 769 cases", *(s / SNN_SETTINGS.epochs for s in seconds)) > 10


def test_t2t_epoch_against_a_plain_loop(regions, tmp_path):  # noqa: F811
    """What an epoch's images take: packed regions against PNG files, decoded and changed sample by sample."""
    ensure_torchvision()
    from torchvision.transforms import functional

    store = RegionStore(regions / "regions.u8", regions / "index.parquet")
    _, target, parts = outcome(np.random.default_rng(0), N)
    rows = pd.DataFrame({"case_id": [f"C{k}" for k in range(N)], "part": parts, "region": np.arange(N)})
    split = Split(rows, target, {}, regions=store)
    batches = Batches(split, CPU)

    def read(row):
        """The crop that was drawn for this row in the running epoch, made as public code makes it."""
        (x, y), drawn = batches.images._at[row], batches.images._drawn[row]
        image = Image.open(regions / f"{row}.png").convert("RGB").crop((x, y, x + store.crop, y + store.crop))
        image = ImageOps.mirror(image) if drawn[2] < 0.5 else image
        image = ImageOps.flip(image) if drawn[3] < 0.5 else image
        for what, figure in zip(store.jitter, 2 * drawn[4:] - 1):
            change = getattr(functional, f"adjust_{what}")
            image = change(image, store.jitter[what] * float(figure) + (what != "hue"))
        image = functional.to_tensor(functional.resize(image, [store.input_px] * 2))
        return functional.normalize(image, *NORMALISATIONS["imagenet"])

    samples = Samples(read, target)
    order = list(batches_of(np.arange(N), T2T_SETTINGS.batch_size, SEED, 0))

    def our_images():
        batches.start_epoch(SEED, 0)
        return torch.cat([batches(some)["regions"] for some in order])

    def plain_images():
        return torch.cat([images for images, _, _ in DataLoader(samples, batch_sampler=order)])

    (ours, plain), (images, expected) = in_turn(5, our_images, plain_images)
    # In standard deviations of ImageNet; Pillow rounds to a byte after each change of colour.
    torch.testing.assert_close(images, expected, rtol=0, atol=0.25)
    assert (images - expected).abs().mean() < 0.05

    def build():
        return ImageSurvival(split.shapes, 1, image={"encoder": SMALL_T2T})

    def ours_whole():
        return our_loop(build, split, T2T_SETTINGS, tmp_path, score=False)

    def plain_whole():
        torch.manual_seed(SEED)
        draw = batches.start_epoch
        return plain_loop(build(), "regions", samples, split, T2T_SETTINGS, lambda epoch: draw(SEED, epoch))

    whole, (curve, expected) = in_turn(2, ours_whole, plain_whole)
    np.testing.assert_allclose(curve, expected, rtol=2e-4)
    report("epoch of a small T2T-ViT, 26 regions, with its images", *(s / T2T_SETTINGS.epochs for s in whole))
    assert report("images of an epoch, 32 regions of 1,024 px", ours, plain) > 5

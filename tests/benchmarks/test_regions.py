"""Speed of making model inputs from regions, as a ratio to a plain loop timed in the same run."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_speed import report

from histofuse.models.torchvision_shim import ensure_torchvision
from histofuse.training.augment import RegionImages
from histofuse.training.regions import JITTER, NORMALISATIONS, RegionStore

N, SIDE, ROUNDS = 32, 1024, 5


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    """Regions as a packed map and as PNG files of 2 MB, the size that stained tissue has."""
    folder, rng = tmp_path_factory.mktemp("regions"), np.random.default_rng(0)
    pixels = np.empty((N, SIDE, SIDE, 3), np.uint8)
    for k in range(N):
        coarse = Image.fromarray(rng.integers(90, 250, (64, 64, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
        pixels[k] = np.clip(smooth + rng.normal(0, 6, (SIDE, SIDE, 1)), 0, 255)
        Image.fromarray(pixels[k]).save(folder / f"{k}.png")
    pixels.tofile(folder / "regions.u8")
    names = [f"C{k}" for k in range(N)]
    index = {"region": np.arange(N), "slide_id": names, "case_id": names, "side_px": SIDE, "sha256": names}
    pd.DataFrame(index).to_parquet(folder / "index.parquet")
    return folder


def test_regions_to_inputs_against_decoding_png_per_sample(regions):
    """One epoch of training images: random crop, flips, jitter, 224 px, normalised. Timed in turn, on one thread."""
    ensure_torchvision()
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.RandomCrop(512),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.ColorJitter(**JITTER),
            transforms.Resize(224, antialias=True),
            transforms.ToTensor(),
            transforms.Normalize(*NORMALISATIONS["imagenet"]),
        ]
    )
    images = RegionImages(
        RegionStore(regions / "regions.u8", regions / "index.parquet"), np.arange(N), torch.device("cpu")
    )

    def ours(epoch):
        images.draw(0, epoch)
        return images.random_crops(np.arange(N), torch.arange(N))

    def loop(epoch):
        return torch.stack([change(Image.open(regions / f"{k}.png").convert("RGB")) for k in range(N)])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = {ours: [], loop: []}
    for epoch in range(ROUNDS):
        for function, timings in seconds.items():
            start = time.perf_counter()
            made = function(epoch)
            timings.append((time.perf_counter() - start) / N)
            assert made.shape == (N, 3, 224, 224)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    assert abs(ours(0).mean() - loop(0).mean()) < 0.2  # the same distribution, in standard deviations of ImageNet
    assert abs(ours(0).std() - loop(0).std()) < 0.2
    assert report("image from a region", *(min(timings) for timings in seconds.values())) > 5

"""Packed regions that tests make for themselves."""

import hashlib

import numpy as np
import pandas as pd

from histofuse.training.dataset import Split, Target
from histofuse.training.regions import RegionStore


def write_regions(folder, pixels, cases):
    """Pack regions uint8 [n, side, side, 3] of these cases as the workflow does; (path of the map, of its index)."""
    pixels.tofile(folder / "regions.u8")
    slides = [f"{case}-01Z-00-DX{k}" for k, case in enumerate(cases)]
    columns = {"region": np.arange(len(cases)), "slide_id": slides, "case_id": cases, "side_px": pixels.shape[1]}
    columns["sha256"] = [hashlib.sha256(region.tobytes()).hexdigest() for region in pixels]
    pd.DataFrame(columns).to_parquet(folder / "index.parquet")
    return folder / "regions.u8", folder / "index.parquet"


def noise(n, side, seed=0):
    """Smooth random pictures, so that resizing them is not all rounding."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, side // 4, side // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def region_split(folder, n_cases=24, per_case=2, side=48, signal=True, **options):
    """A survival split of regions, redder the higher the hazard; two thirds of the cases are to train on."""
    rng = np.random.default_rng(7)
    risk = rng.normal(size=n_cases)
    case = np.repeat(np.arange(n_cases), per_case)
    pixels = 100 + rng.integers(0, 40, (len(case), side, side, 3))
    pixels[..., 0] += np.clip(40 * risk[case] if signal else 0, -90, 90).astype(int)[:, None, None]
    names = [f"TCGA-{k:02}" for k in case]
    settings = {"crop_px": 32, "stride_px": 16, "input_px": 32, "jitter": dict.fromkeys(("contrast", "hue"), 0.0)}
    store = RegionStore(*write_regions(folder, pixels.astype(np.uint8), names), **(settings | options))
    parts = np.where(case < n_cases * 2 // 3, "train", "test")
    rows = pd.DataFrame({"case_id": names, "part": parts, "region": np.arange(len(case))})
    time = rng.exponential(np.exp(-3 * risk)) * 100
    event = (rng.random(n_cases) < 0.9).astype(np.int64)
    target = Target("survival", time[case], event[case], np.zeros(0, np.int64))
    return Split(rows, target, {}, regions=store)

"""Speed of encoders, as ratios to plain PyTorch timed in the same run.

Run as a script this file is one of two workers: memory settings are a process's own, so the plain road runs in a
process that never loaded ours.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROUNDS = 5
TILES = 64
PLAIN_BATCH = 32
SETTINGS = {"encoder": "resnet50-stage3", "tile_px": 224, "batch": 64, "weights": "random"}


def tiles_like_tissue(n, seed=0):
    """uint8 [n, 224, 224, 3]: noise of several scales, so that activations are neither constant nor white noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, 14, 14, 3)).repeat(16, 1).repeat(16, 2)
    return np.clip(160 + 40 * coarse + 20 * rng.normal(size=(n, 224, 224, 3)), 0, 255).astype(np.uint8)


def ours():
    from histofuse.slides.encoders import load_encoder

    encoder = load_encoder(SETTINGS)
    return lambda tiles: encoder.encode_all(np.array_split(tiles, 7))[0]


def plain():
    """The cut model as timm makes it, float32, in the default layout; weights as ours are started."""
    import torch

    from histofuse.models.torchvision_shim import ensure_torchvision
    from histofuse.slides.encoder_models import start_at_random

    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50.tv_in1k", features_only=True, out_indices=(3,)).eval()
    start_at_random(model)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def encode(tiles):
        parts = []
        for first in range(0, len(tiles), PLAIN_BATCH):
            images = torch.from_numpy(tiles[first : first + PLAIN_BATCH]).permute(0, 3, 1, 2).contiguous().float() / 255
            parts.append(model((images - mean) / std)[0].mean((2, 3)))
        return torch.cat(parts).numpy()

    return encode


def work(kind, path):
    """Encode once, write the features to `path`, then time one round for every line of the standard input."""
    import torch

    torch.set_num_threads(1)
    encode = {"ours": ours, "plain": plain}[kind]()
    tiles = tiles_like_tissue(TILES)
    np.save(path, encode(tiles))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        encode(tiles)
        print(time.perf_counter() - start, flush=True)


def test_encoder_against_plain_pytorch(tmp_path):
    """ResNet-50 to its third stage, one thread each, rounds in turns; the median of each."""
    library = Path(__file__).parents[2] / "workflow" / "scripts"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(library)}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    paths = {kind: tmp_path / f"{kind}.npy" for kind in ("ours", "plain")}
    workers = {
        kind: subprocess.Popen([sys.executable, "-W", "ignore", __file__, kind, str(path)], **options)
        for kind, path in paths.items()
    }
    times = {kind: [] for kind in workers}
    try:
        for worker in workers.values():
            assert worker.stdout.readline() == "ready\n"
        for _ in range(ROUNDS):
            for kind, worker in workers.items():
                worker.stdin.write("go\n")
                worker.stdin.flush()
                times[kind].append(float(worker.stdout.readline()))
    finally:
        for worker in workers.values():
            worker.communicate()
    found, expected = (np.load(paths[kind]) for kind in ("ours", "plain"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    rates = {kind: TILES / np.median(seconds) for kind, seconds in times.items()}
    ratio = rates["ours"] / rates["plain"]
    print(
        f"\nResNet-50 stage 3, one core: {rates['ours']:.1f} tiles/s against {rates['plain']:.1f}, {ratio:.2f} ×; "
        f"features differ by {np.abs(found - expected).max():.1e} of up to {np.abs(expected).max():.1f}"
    )
    assert ratio >= 2.5


def test_encoder_on_a_gpu():
    """A transformer of UNI's size in bfloat16, tiles ready in memory: the share in which the GPU computes."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    from histofuse.slides.encoders import load_encoder

    tiles = tiles_like_tissue(256)
    for name in ("resnet50-stage3", "uni"):
        full = load_encoder(SETTINGS | {"encoder": name, "batch": 256, "precision": "float32"})
        expected = full.encode(tiles)
        encoder = load_encoder(SETTINGS | {"encoder": name, "batch": 256})
        assert encoder.precision is torch.bfloat16
        found = encoder.encode(tiles)
        cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        rates, share = {}, {}
        for kind, which in {"bfloat16": encoder, "float32": full}.items():
            start = time.perf_counter()
            _, share[kind] = which.encode_all(np.array_split(np.concatenate([tiles] * 16), 50))
            rates[kind] = 16 * len(tiles) / (time.perf_counter() - start)
        print(
            f"\n{name} on {torch.cuda.get_device_name()}: bfloat16 {rates['bfloat16']:.0f} tiles/s, busy "
            f"{share['bfloat16']:.0%}; float32 {rates['float32']:.0f} tiles/s; least cosine {cosine.min():.5f}"
        )
        assert cosine.min() > 0.99
        assert rates["bfloat16"] > rates["float32"]
        assert share["bfloat16"] > 0.8 or name != "uni"


if __name__ == "__main__":
    work(*sys.argv[1:])

"""A training step of KS-Fusion at its real size, 2,500 places of 1,024 numbers, against the form as published.

The reference is that of the unit tests, on the same parameters: genes copied to every place, the MLP of the position
bias for each pair of a place and a key, attention written out. A step is forward, backward and AdamW. All tiles of a
slide are distinct, so that embedding each once saves nothing. On a CPU the reference gets eight slides a batch only
where 32 GB are free, and two otherwise; its time and memory are then four times those of two.
"""

import os
import time

import pytest
import torch
from torch.nn.functional import cross_entropy
from training_steps import rate_on_gpu, saved_bytes, shortest, stepper
from unit.models.dense_ks_fusion import DenseKSFusion

from histofuse.models.ks_fusion import KSFusion
from histofuse.training.loop import make_deterministic

SHAPES = {"tiles": (1024,), "tumour": (59,), "microenvironment": (361,)}
BATCH, ROUNDS = 8, 3


def build(**params):
    torch.manual_seed(0)
    return KSFusion(SHAPES, 4, **params)


def slides(n, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(n, *shape, generator=generator) for name, shape in SHAPES.items() if name != "tiles"}
    batch["tiles"] = torch.randn(n, 2500, 1024, generator=generator)
    batch["tiles_place"] = torch.stack([torch.randperm(2500, generator=generator) for _ in range(n)])
    return {name: value.to(device) for name, value in batch.items()}


def loss_of(form, batch):
    output = form(batch)
    labels = torch.arange(len(output.total), device=output.total.device) % 4
    return cross_entropy(output.total, labels) + output.losses["gecon"]


@pytest.mark.usefixtures("two_threads", "deterministic")
def test_step_on_two_cores():
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    n = BATCH if free > 32e9 else 2
    few, many = slides(n), slides(BATCH)
    still = build(dropout=0)
    with torch.no_grad():
        ours, dense = (form(few).total for form in (still, DenseKSFusion(still)))
    torch.testing.assert_close(ours, dense, rtol=1e-3, atol=1e-4)
    model, reference = build(), DenseKSFusion(build())
    kept = saved_bytes(lambda: loss_of(model, many), *model.parameters(), *many.values()) / BATCH
    kept_dense = saved_bytes(lambda: loss_of(reference, few), *reference.parameters(), *few.values()) / n
    ways = {"ours": stepper(model, many, loss_of), "dense": stepper(reference, few, loss_of)}
    seconds = shortest(ways, ROUNDS, time.perf_counter)
    ratio = seconds["dense"] / n / (seconds["ours"] / BATCH)
    print(f"\nstep of {BATCH} slides: ours {seconds['ours']:.2f} s; dense {seconds['dense']:.1f} s of {n}, ", end="")
    print(f"{seconds['dense'] * BATCH / n:.1f} s of {BATCH}: {ratio:.1f} ×")
    print(f"activations of {BATCH}: {BATCH * kept / 1e9:.2f} GB against {BATCH * kept_dense / 1e9:.1f} GB, ", end="")
    print(f"1/{kept_dense / kept:.0f}")
    assert ratio >= 5
    assert kept <= kept_dense / 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_step_on_a_gpu(autocast):
    """The reference without deterministic kernels, since it has none."""
    batch = slides(BATCH, "cuda")
    for name, form in (("dense", DenseKSFusion(build())), ("ours", build())):
        if name == "ours":
            make_deterministic()
        try:
            rate, memory = rate_on_gpu(stepper(form.cuda(), batch, loss_of, autocast))
        finally:
            torch.use_deterministic_algorithms(False)
        print(f"\n{name}: {rate:.1f} steps/s of {BATCH}, {2387 / BATCH / rate:.1f} s an epoch, {memory:.2f} GB", end="")
        if name == "dense":
            reference = rate, memory
    assert rate > reference[0]
    assert memory < reference[1]

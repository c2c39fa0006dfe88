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
from unit.models.dense_ks_fusion import DenseKSFusion

from histofuse.models.ks_fusion import KSFusion
from histofuse.training.loop import make_deterministic

SHAPES = {"tiles": (1024,), "tumour": (59,), "microenvironment": (361,)}
BATCH, ROUNDS = 8, 3


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def deterministic():
    """As models are trained here."""
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


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


def stepper(form, batch, autocast=False):
    optimiser = torch.optim.AdamW(form.parameters(), lr=2e-4, weight_decay=0.01)

    def step():
        with torch.autocast(batch["tiles"].device.type, torch.bfloat16, enabled=autocast):
            loss = loss_of(form, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def saved_bytes(form, batch):
    """Activations that a step keeps for its backward pass: each storage once, without parameters and inputs."""
    known = {x.untyped_storage().data_ptr() for x in (*form.parameters(), *batch.values())}
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = loss_of(form, batch)
    total = sum(size for pointer, size in storages.items() if pointer not in known)
    del loss
    return total


def shortest(ways, rounds=ROUNDS):
    """Seconds of each way's shortest step of some rounds in which all take their turn."""
    timings = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            timings[name].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in timings.items()}


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
    kept, kept_dense = saved_bytes(model, many) / BATCH, saved_bytes(reference, few) / n
    seconds = shortest({"ours": stepper(model, many), "dense": stepper(reference, few)})
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
    batch, steps = slides(BATCH, "cuda"), 20
    for name, form in (("dense", DenseKSFusion(build())), ("ours", build())):
        if name == "ours":
            make_deterministic()
        step = stepper(form.cuda(), batch, autocast)
        try:
            step()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                step()
            torch.cuda.synchronize()
        finally:
            torch.use_deterministic_algorithms(False)
        rate, memory = steps / (time.perf_counter() - start), torch.cuda.max_memory_allocated() / 1e9
        print(f"\n{name}: {rate:.1f} steps/s of {BATCH}, {2387 / BATCH / rate:.1f} s an epoch, {memory:.2f} GB", end="")
        if name == "dense":
            reference = rate, memory
    assert rate > reference[0]
    assert memory < reference[1]

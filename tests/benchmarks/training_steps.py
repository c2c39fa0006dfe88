"""A training step of a model, timed in turn with other forms of it, and what it keeps in memory."""

import time

import torch


def stepper(form, batch, loss_of, autocast=False):
    """A function that makes one step: forward, backward and AdamW. loss_of(form, batch) gives the loss."""
    optimiser = torch.optim.AdamW(form.parameters(), lr=2e-4, weight_decay=0.01)

    def step():
        with torch.autocast(batch["tiles"].device.type, torch.bfloat16, enabled=autocast):
            loss = loss_of(form, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def shortest(ways, rounds, clock):
    """{name: seconds by a clock of the shortest step} of some rounds in which all of {name: step} take their turn."""
    timings = {name: [] for name in ways}
    for _ in range(rounds):
        for name, step in ways.items():
            start = clock()
            step()
            timings[name].append(clock() - start)
    return {name: min(seconds) for name, seconds in timings.items()}


def saved_bytes(forward, *known):
    """Activations that forward() keeps for its backward pass: each storage once, but for the known tensors."""
    known = {x.untyped_storage().data_ptr() for x in known}
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        made = forward()
    total = sum(size for pointer, size in storages.items() if pointer not in known)
    del made
    return total


def rate_on_gpu(step, steps=20):
    """(steps per second, peak memory in GB) on the GPU, after a first step that does not count."""
    step()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return steps / (time.perf_counter() - start), torch.cuda.max_memory_allocated() / 1e9

"""Fixtures of the benchmarks: how many threads torch may take, and its deterministic algorithms."""

import pytest
import torch

from histofuse.training.loop import make_deterministic


def _threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread():
    yield from _threads(1)


@pytest.fixture
def two_threads():
    yield from _threads(2)


@pytest.fixture
def deterministic():
    """As models are trained here."""
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)

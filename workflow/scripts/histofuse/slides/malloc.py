"""Keep glibc from giving freed memory back while a network runs."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
MIB = 1 << 20
# Setting any parameter switches off glibc's own adjustment of two thresholds. These are where that adjustment ends in a
# process that frees large blocks, and what else it starts with.
AS_BEFORE = {TRIM_THRESHOLD: 64 * MIB, MMAP_THRESHOLD: 32 * MIB, MMAP_MAX: 65536}
KEPT = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Memory that this process frees stays with it until the block ends; elsewhere than on glibc, do nothing.

    A layer's activations of some tens of MiB are otherwise mapped afresh for every layer, and the kernel clears each
    page before its first use: a fifth of the time of a ResNet-50 on one core.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter, value in KEPT.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in AS_BEFORE.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)

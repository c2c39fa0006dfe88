"""Which errors are the machine's: a failing disk or network, a full one, or too little memory.

After such an error a sound slide can be read another day, so that it fails the job; a damaged one is set aside.
"""

from __future__ import annotations

import errno
import os

# Of what the system answers. Others, such as EINVAL, are answers to what a damaged file made a library ask for.
_NAMES = (
    "EIO", "EREMOTEIO", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED",
    "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENOSPC", "EDQUOT", "ENOMEM", "EMFILE",
    "ENFILE",
)  # fmt: skip
MACHINE = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}
# OpenSlide, libvips and HDF5 tell of the system's answer in their messages only; the last is OpenSlide's own.
WORDS = (*map(os.strerror, sorted(MACHINE)), "I/O error")


def of_the_machine(error: BaseException) -> bool:
    """Whether what a library raised while it read a file is the machine's fault rather than the file's."""
    known = isinstance(error, OSError) and error.errno in MACHINE
    return known or isinstance(error, MemoryError) or any(word in str(error) for word in WORDS)

"""Giving memory back: between steps that each need several times a model's size, and inside of them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

__all__ = ["frugal", "release", "trim"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of ``mallopt``, as <malloc.h> numbers them: how much stays free at the end of the heap, and how large a block is
taken from the system and returned to it by itself."""
LARGE = 2**17
"""Bytes of a block that is worth a call of the system."""
ADAPTED = 2**25
"""Where GNU's allocator goes by itself, once it has seen such blocks freed: the most that it allows."""


SET_BY_HAND = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user says how the allocator behaves."""

_depth = 0


@contextlib.contextmanager
def frugal() -> Iterator[None]:
    """Return freed blocks of more than 128 kB to the system at once.

    GNU's allocator keeps freed blocks of up to 32 MB for later, and layers of different sizes leave gaps that the next
    ones do not fit: replacing all layers of a model one by one took two models more than were alive.  It costs time, so
    nothing is timed inside.  Afterwards the process keeps blocks of up to 32 MB, where it would have gone by itself.
    """
    global _depth  # noqa: PLW0603  as the allocator's settings are the process's
    _depth += 1
    if _depth == 1:
        _set_threshold(LARGE)
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            _set_threshold(ADAPTED)


def release() -> None:
    """Free what only reference cycles hold, traced programs and their weights among it, and return what is free."""
    gc.collect()
    trim()


def trim() -> None:
    """Return what is free between blocks that are in use."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _set_threshold(size: int) -> None:
    if sys.platform == "linux" and not any(name in os.environ for name in SET_BY_HAND):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, size)
            ctypes.CDLL(None).mallopt(TRIM_THRESHOLD, 2 * size)

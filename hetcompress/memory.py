"""Giving memory back between steps that each need several times a model's size."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

__all__ = ["release"]


def release() -> None:
    """Free what only reference cycles hold, traced programs and their weights among it, and return it to the system.

    GNU's allocator keeps freed blocks of up to 32 MB for later, which for a traced model is more than the model itself.
    """
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)

"""Memory of large outputs, used again.

The C library gives large blocks back to the system as soon as they are free, and the system hands out the next one page
by page, each zeroed first: a third of the time of ResNet-34 at batch 16.  So the memory of an output whose last tensor
is gone goes to the next output of that size.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["new_output"]

LARGE = 2**18
"""Elements; the C library keeps smaller blocks itself."""
KEPT = 2**26
"""Elements that wait for a next output, at most; what is beyond is freed."""


class _Blocks:
    """Blocks of memory that no output uses, by their size."""

    def __init__(self) -> None:
        self.lock, self.waiting, self.elements = threading.RLock(), defaultdict[int, list[Tensor]](list), 0

    def take(self, elements: int) -> Tensor:
        with self.lock:
            if self.waiting[elements]:
                self.elements -= elements
                return self.waiting[elements].pop()
        return torch.empty(elements)

    def give(self, block: Tensor) -> None:
        with self.lock:
            if self.elements + block.numel() <= KEPT:
                self.elements += block.numel()
                self.waiting[block.numel()].append(block)


_BLOCKS = _Blocks()


@functools.lru_cache(maxsize=256)
def _floats(elements: int) -> Any:
    # a class of our own: objects of ctypes' classes tell nobody when they die
    return type("Floats", (ctypes.c_float * elements,), {})


def new_output(shape: Sequence[int]) -> Tensor:
    """Return a float32 tensor on the CPU whose values are what its memory held before.

    Args:
        shape: Its sizes.
    """
    elements = math.prod(shape)
    if elements < LARGE:
        return torch.empty(*shape)
    block = _BLOCKS.take(elements)
    # every tensor made from this object keeps it alive
    owner = _floats(elements).from_address(block.data_ptr())
    weakref.finalize(owner, _BLOCKS.give, block).atexit = False
    # not `view`: autograd lets nobody write to views that custom operators return
    return torch.frombuffer(owner, dtype=torch.float32).resize_(*shape)

"""The library {empty, centre, full}: the coarsest one that stock runtimes execute at full speed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.shapes._library import LibraryShapes, centre
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize

__all__ = ["CentreShapes"]


@SHAPE_FAMILIES.register("centre")
class CentreShapes(LibraryShapes):
    """Nothing, the centre tap alone, or the whole kernel: a learned HetConv.

    Chosen per input channel and shared by all filters (``group_in=1, group_out="all"``), a layer becomes one 1x1 and
    one k x k convolution over some of its channels.

    Args:
        block: See `LibraryShapes`.
    """

    name = "centre"

    def __init__(self, block: int = 16) -> None:
        super().__init__(block)

    def library(self, kernel_size: KernelSize) -> dict[str, Float[Tensor, "kh kw"]]:
        """Return empty, centre and full; a 1x1 kernel has no centre besides the full one."""
        middle = torch.zeros(kernel_size)
        middle[centre(kernel_size)] = 1
        shapes = {"empty": torch.zeros(kernel_size), "centre": middle, "full": torch.ones(kernel_size)}
        if kernel_size == (1, 1):
            del shapes["centre"]
        return shapes

"""The library {empty, full}: channel pruning, with what reads a channel deciding on it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.shapes._library import LibraryShapes
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize

__all__ = ["WholeShapes"]


@SHAPE_FAMILIES.register("whole")
class WholeShapes(LibraryShapes):
    """Nothing or the whole kernel.

    Chosen per input channel and shared by all filters (``group_in=1, group_out="all"``), a layer becomes one smaller
    convolution: one operator, where any other family has several.

    Args:
        block: See `LibraryShapes`.
    """

    name = "whole"

    def __init__(self, block: int = 16) -> None:
        super().__init__(block)

    def library(self, kernel_size: KernelSize) -> dict[str, Float[Tensor, "kh kw"]]:
        """Return empty and full."""
        return {"empty": torch.zeros(kernel_size), "full": torch.ones(kernel_size)}

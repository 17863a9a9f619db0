"""The library {empty, centre, full}: the coarsest one that stock runtimes execute at full speed."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.shapes._blocks import averaged_in_blocks
from hetcompress.shapes._library import LibraryShapes, centre
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize

__all__ = ["CentreShapes"]


@SHAPE_FAMILIES.register("centre")
class CentreShapes(LibraryShapes):
    """Nothing, the centre tap alone, or the whole kernel: a learned HetConv.

    Chosen per input channel and shared by all filters (``group_in=1, group_out="all"``), a layer becomes one 1x1 and
    one k x k convolution over some of its channels.

    Args:
        block: Input channels that decide together; the runtime's channel block, 16 with AVX-512 and 8 with AVX2.
    """

    name = "centre"

    def __init__(self, block: int = 16) -> None:
        super().__init__()
        if not isinstance(block, int) or block < 1:
            raise UsageError("block of family 'centre'", expected="a number of channels", found=repr(block))
        self.block = block

    def arguments(self) -> dict[str, Any]:
        """See `ShapeFamily.arguments`."""
        return {"block": self.block}

    def logits_of(self, scores: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "out_groups in_groups n"]:
        """A shape's logit is the sum of the scores of its taps, meant over a block of channels."""
        return super().logits_of(averaged_in_blocks(scores, self.block))

    def library(self, kernel_size: KernelSize) -> dict[str, Float[Tensor, "kh kw"]]:
        """Return empty, centre and full; a 1x1 kernel has no centre besides the full one."""
        middle = torch.zeros(kernel_size)
        middle[centre(kernel_size)] = 1
        shapes = {"empty": torch.zeros(kernel_size), "centre": middle, "full": torch.ones(kernel_size)}
        if kernel_size == (1, 1):
            del shapes["centre"]
        return shapes

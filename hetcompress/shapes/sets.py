"""A learned HetConv: each filter group has its own set of whole kernels, everything else is 1x1 or empty.

    HetConv (arXiv 1903.04120): filter n keeps k x k at the channels c with (c - n) mod P = 0
    here:                       filter group g keeps k x k at the channels of a learned set S_g, all |S_g| alike

With sets of one size a layer is one 1x1 over the channels that are alive and one group convolution over each group's
own channels, gathered.  So a channel's centre tap belongs to all filters or to none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.shapes._blocks import averaged_in_blocks
from hetcompress.shapes._estimators import hard_step
from hetcompress.shapes._library import centre
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize, ShapeFamily

__all__ = ["SetShapes"]


@SHAPE_FAMILIES.register("sets")
class SetShapes(ShapeFamily):
    """Two logits for each channel group: of the taps around the centre, and of the centre tap.

    The n-th best channels of all filter groups decide together on the taps around the centre, so that the sets come out
    equally large.  Logits that are trained themselves (method "penalty") are bound by the common centre alone.

    Args:
        block: Channels that decide together: sets are multiples of it.
    """

    name = "sets"

    def __init__(self, block: int = 16) -> None:
        if not isinstance(block, int) or block < 1:
            raise UsageError("block of family 'sets'", expected="a number of channels", found=repr(block))
        self.block = block

    def arguments(self) -> dict[str, Any]:
        """See `ShapeFamily.arguments`."""
        return {"block": self.block}

    def logits_per_group(self, kernel_size: KernelSize) -> int:
        """Return 2, and 1 for 1x1 kernels, which have nothing around the centre."""
        return min(2, math.prod(kernel_size))

    def masks(
        self, logits: Float[Tensor, "out_groups in_groups n"], kernel_size: KernelSize
    ) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Keep whole kernels where the first logit is positive, and the centre of channels that any filter keeps."""
        alive = hard_step(logits[..., -1].mean(0)).expand(logits.shape[:2])
        masks = logits.new_zeros((*logits.shape[:2], *kernel_size))
        if logits.shape[-1] > 1:
            whole = hard_step(logits[..., 0])
            alive = torch.maximum(alive, whole.amax(0))
            masks = whole[..., None, None].expand_as(masks).clone()
        row, column = centre(kernel_size)
        masks[..., row, column] = alive
        return masks

    def logits_of(self, scores: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "out_groups in_groups n"]:
        """Sum the scores around the centre, alike by rank in all filter groups; mean the centre's over all filters."""
        row, column = centre((scores.shape[-2], scores.shape[-1]))
        centres = scores[..., row, column].mean(0, keepdim=True)
        alive = averaged_in_blocks(centres[..., None], centres, self.block).expand(*scores.shape[:2], 1)
        if scores[0, 0].numel() == 1:
            return alive
        kept = scores.clone()
        kept[..., row, column] = 0
        around = kept.sum((-2, -1))
        return torch.cat([averaged_in_blocks(around[..., None], around, self.block, alike=True), alive], -1)

    def priced(
        self,
        logits: Float[Tensor, "out_groups in_groups n"],
        price: float,
        kernel_size: KernelSize,
        channel: float = 0.0,
    ) -> Float[Tensor, "out_groups in_groups n"]:
        """Charge the centre for one tap and the channel, and what is around it for all other taps."""
        taps = [math.prod(kernel_size) - 1, 1 + channel][-logits.shape[-1] :]
        return logits - price * logits.new_tensor(taps)

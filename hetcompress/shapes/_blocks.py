"""Channels that decide together, so that counts of shapes come in multiples of a block.

Runtimes compute in blocks of channels (16 with AVX-512): 13 channels cost what 16 do, or leave the fast path.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["averaged_in_blocks"]


def averaged_in_blocks(
    values: Float[Tensor, "out_groups in_groups n"],
    ranked_by: Float[Tensor, "out_groups in_groups"],
    block: int,
    *,
    alike: bool = False,
) -> Float[Tensor, "out_groups in_groups n"]:
    """Return values that are alike, to the last digit, for the channels of a block.

    Channels are ranked, cut into blocks in this order, and each gets the mean of its block.  Whatever shape is then
    best for one channel, at any price, is best for its whole block.

    Args:
        values: Of each channel group.
        ranked_by: What each channel is worth; the most first.
        block: Channels in a block.
        alike: Whether the n-th blocks of all filter groups decide together too.
    """
    channels = values.shape[1]
    if (block == 1 and not alike) or channels == 0:
        return values
    index = ranked_by.argsort(dim=1, descending=True, stable=True)[..., None].expand_as(values)
    ranked = values.gather(1, index)
    blocks = -(-channels // block)
    padded = F.pad(ranked, (0, 0, 0, blocks * block - channels))
    sums = padded.reshape(len(values), blocks, block, values.shape[2]).sum(2)
    sizes = torch.full((blocks,), block, dtype=values.dtype, device=values.device)
    sizes[-1] = channels - (blocks - 1) * block
    means = sums / sizes[:, None]
    if alike:
        means = means.mean(0, keepdim=True).expand_as(means)
    return torch.empty_like(values).scatter(1, index, means.repeat_interleave(block, 1)[:, :channels])

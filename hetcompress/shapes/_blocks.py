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
    scores: Float[Tensor, "out_groups in_groups kh kw"], block: int, *, alike: bool = False
) -> Float[Tensor, "out_groups in_groups kh kw"]:
    """Return scores that are alike for the channels of a block.

    Channels are ranked by what all their taps are worth, cut into blocks in this order, and each gets the mean of its
    block.  Whatever shape is then best for one channel, at any price, is best for its whole block.

    Args:
        scores: Of each tap of each channel group.
        block: Channels in a block.
        alike: Whether the n-th blocks of all filter groups decide together too.
    """
    channels = scores.shape[1]
    if (block == 1 and not alike) or channels == 0:
        return scores
    ranks = scores.sum((-2, -1)).argsort(dim=1, descending=True, stable=True)
    index = ranks[..., None, None].expand_as(scores)
    ranked = scores.gather(1, index)
    blocks = -(-channels // block)
    padded = F.pad(ranked, (0, 0, 0, 0, 0, blocks * block - channels))
    sums = padded.reshape(len(scores), blocks, block, *scores.shape[2:]).sum(2)
    sizes = torch.full((blocks,), block, dtype=scores.dtype, device=scores.device)
    sizes[-1] = channels - (blocks - 1) * block
    means = (sums / sizes[:, None, None]).repeat_interleave(block, 1)[:, :channels]
    if alike:
        means = means.mean(0, keepdim=True).expand_as(scores)
    return torch.empty_like(scores).scatter(1, index, means)

"""Channel groups: the blocks of neighbouring kernels of a convolution that share one shape.

A convolution with weight (C_out, C_in / groups, kh, kw) is cut into blocks of ``group_out`` filters x ``group_in``
input channels.  Blocks restart at each conv group; the last block of each may be smaller.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hetcompress.errors import UsageError

__all__ = ["BLOCK", "ChannelGroups", "GroupSize"]

BLOCK = 16
"""Channels that runtimes compute at once with AVX-512; also the longest vector of our own kernel."""

GroupSize = int | Literal["all"]


def _blocks(channels: int, size: GroupSize) -> int:
    return 1 if size == "all" else -(-channels // size)


@dataclasses.dataclass(frozen=True)
class ChannelGroups:
    """The blocking of one convolution.

    Args:
        filters: Output channels of one conv group.
        channels: Input channels of one conv group.
        conv_groups: ``groups`` of the convolution.
        group_out: Filters of a block, or "all" of a conv group.
        group_in: Input channels of a block, or "all" of a conv group.

    Raises:
        UsageError: A group size is neither a positive number nor "all".
    """

    filters: int
    channels: int
    conv_groups: int
    group_out: GroupSize
    group_in: GroupSize

    def __post_init__(self) -> None:
        for name, size in (("group_out", self.group_out), ("group_in", self.group_in)):
            if size != "all" and (not isinstance(size, int) or size < 1):
                raise UsageError(f"--{name.replace('_', '-')}", expected="a number >= 1 or 'all'", found=f"{size!r}")

    @classmethod
    def of(cls, conv: nn.Conv2d, group_out: GroupSize, group_in: GroupSize) -> ChannelGroups:
        """Return the blocking of `conv`."""
        return cls(
            conv.out_channels // conv.groups,
            conv.in_channels // conv.groups,
            conv.groups,
            group_out,
            group_in,
        )

    @property
    def out_groups(self) -> int:
        """Rows of blocks, over all conv groups."""
        return self.conv_groups * _blocks(self.filters, self.group_out)

    @property
    def in_groups(self) -> int:
        """Columns of blocks, within one conv group."""
        return _blocks(self.channels, self.group_in)

    def out_index(self) -> Int[Tensor, " c_out"]:
        """Return the row of blocks that each filter belongs to."""
        size = self.filters if self.group_out == "all" else self.group_out
        within = torch.arange(self.filters) // size
        starts = torch.arange(self.conv_groups) * _blocks(self.filters, self.group_out)
        return (starts[:, None] + within[None, :]).flatten()

    def in_index(self) -> Int[Tensor, " c_in"]:
        """Return the column of blocks that each input channel of a conv group belongs to."""
        return torch.arange(self.channels) // (self.channels if self.group_in == "all" else self.group_in)

    def expand(self, blocks: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "c_out c_in kh kw"]:
        """Repeat one value per block and tap for every kernel of the block; not to be written to."""
        return _repeated(_repeated(blocks, 0, self.out_index()), 1, self.in_index())

    def scale(
        self, weight: Float[Tensor, "c_out c_in kh kw"], blocks: Float[Tensor, "out_groups in_groups kh kw"]
    ) -> Float[Tensor, "c_out c_in kh kw"]:
        """Multiply every kernel by the values of its block, which are not repeated first where blocks are whole."""
        filters = self.filters if self.group_out == "all" else self.group_out
        one_or_all = self.in_groups in (1, self.channels)
        if self.filters % filters or not one_or_all:
            return weight * self.expand(blocks)
        split = weight.view(self.out_groups, filters, self.in_groups, -1, *weight.shape[2:])
        return (split * blocks[:, None, :, None]).reshape(weight.shape)

    def total(self, weight: Float[Tensor, "c_out c_in kh kw"]) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Sum a quantity of every weight over the kernels of each block, tap by tap."""
        device = weight.device
        rows = weight.new_zeros((self.out_groups, *weight.shape[1:])).index_add_(0, self.out_index().to(device), weight)
        empty = weight.new_zeros((self.out_groups, self.in_groups, *weight.shape[2:]))
        return empty.index_add_(1, self.in_index().to(device), rows)

    def whole(self, filters: Bool[Tensor, " c_out"]) -> Bool[Tensor, " c_out"]:
        """Return these filters and, where rows of blocks are vectors of a kernel, the others of their rows."""
        row = self.out_index()
        if self.group_out == "all" or int(row.bincount().max()) > BLOCK:
            return filters
        return torch.zeros(self.out_groups, dtype=torch.long).index_add_(0, row, filters.long())[row] > 0

    def sizes(self) -> Float[Tensor, "out_groups in_groups"]:
        """Return the number of kernels in each block."""
        return _sizes(self).clone()


def _repeated(values: Tensor, axis: int, index: Int[Tensor, " n"]) -> Tensor:
    """Return ``values[index]`` along an axis, without a copy where every entry is the same or each stands once."""
    if values.shape[axis] == 1:
        return values.expand([len(index) if i == axis else -1 for i in range(values.dim())])
    return values if len(index) == values.shape[axis] else values.index_select(axis, index.to(values.device))


@functools.lru_cache(maxsize=1024)
def _sizes(groups: ChannelGroups) -> Float[Tensor, "out_groups in_groups"]:
    ones = torch.ones(groups.filters * groups.conv_groups, groups.channels, 1, 1)
    return groups.total(ones)[..., 0, 0]

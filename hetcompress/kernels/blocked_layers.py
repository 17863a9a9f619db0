"""What stands between blocked layers in torch: pools over blocked images, and reorders at the ends of a run of them."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.kernels.packing import blocked, planar

__all__ = ["BlockedMaxPool2d", "BlockedPool2d", "ToBlocked", "ToPlanar"]


class ToBlocked(nn.Module):
    """Reorders planar images.

    Args:
        vector: V, channels of a block.
    """

    def __init__(self, vector: int) -> None:
        super().__init__()
        self.vector = vector

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n b h w v"]:
        """Return the images blocked."""
        return blocked(images, self.vector)


class ToPlanar(nn.Module):
    """Reorders blocked images.

    Args:
        channels: How many there are; what fills up the last block is dropped.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Float[Tensor, "n b h w v"]) -> Float[Tensor, "n c h w"]:
        """Return the images planar."""
        return planar(images, self.channels)


class BlockedPool2d(nn.Module):
    """A pool, or anything else that treats all channels alike, over blocked images.

    A block of V channels is an image in the channels-last format, in which torch's own pools are fast.

    Args:
        pool: Takes (n, c, h, w).
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, images: Float[Tensor, "n b h w v"]) -> Float[Tensor, "n b h2 w2 v"]:
        """Return the pooled images."""
        pooled = self.pool(images.flatten(0, 1).permute(0, 3, 1, 2))
        return pooled.permute(0, 2, 3, 1).unflatten(0, images.shape[:2])  # type: ignore[no-any-return]


class BlockedMaxPool2d(nn.Module):
    """A maximum over blocked images, of rows and then of columns.

    torch's own pool also notes where each maximum was; this one takes half of its time (measured).

    Args:
        pool: The pool over planar images.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.dilation = (
            (value, value) if isinstance(value, int) else (value[0], value[1])
            for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )
        self.ceil_mode = pool.ceil_mode

    def forward(self, images: Float[Tensor, "n b h w v"]) -> Float[Tensor, "n b h2 w2 v"]:
        """Return the pooled images."""
        return self._along(self._along(images, 0), 1)

    def _along(self, images: Tensor, axis: int) -> Tensor:
        """Return the maximum over rows (axis 0) or columns (axis 1)."""
        size, stride, before, dilation = (
            values[axis] for values in (self.size, self.stride, self.padding, self.dilation)
        )
        length = images.shape[2 + axis]
        extent = (size - 1) * dilation + 1
        steps, rest = divmod(length + 2 * before - extent, stride)
        # a last window that is not whole counts if it begins in the image, or in the padding before it
        if self.ceil_mode and rest and (steps + 1) * stride < length + before:
            steps += 1
        after = max(steps * stride + extent - length - before, 0)
        if before or after:
            images = F.pad(images, (0, 0, *(0, 0) * (1 - axis), before, after), value=float("-inf"))
        begins = range(0, extent, dilation)
        views = (images.narrow(2 + axis, begin, steps * stride + 1) for begin in begins)
        strided = (view[:, :, ::stride] if axis == 0 else view[:, :, :, ::stride] for view in views)
        return functools.reduce(torch.maximum, strided)

    def extra_repr(self) -> str:
        """Return what the pool does."""
        return (
            f"size={self.size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )

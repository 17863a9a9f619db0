"""A pool over blocked images, or a reorder, as a module."""

from __future__ import annotations

from torch import Tensor, nn

from hetcompress.kernels.pool_operator import blocked_pool2d
from hetcompress.kernels.pooling import Pooling

__all__ = ["BlockedPool2d"]


class BlockedPool2d(nn.Module):
    """Pools images of either layout into either layout; of single pixels, a reorder.

    Args:
        pooling: What to do.
    """

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling, self._numbers = pooling, pooling.numbers

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled images.

        Args:
            images: In the layout that the pooling says.
        """
        return blocked_pool2d(images, self._numbers)

    def extra_repr(self) -> str:
        """Return what the pool does."""
        return str(self.pooling)

"""What stands between blocked layers in torch: pools over blocked images, and reorders at the ends of a run of them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.kernels.packing import blocked, planar
from hetcompress.kernels.pool_operator import max_pool2d_blocked, of_channels_last

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
        pooled = self.pool(of_channels_last(images))
        n, blocks, _, _, vector = images.shape
        return pooled.permute(0, 2, 3, 1).reshape(n, blocks, *pooled.shape[2:], vector)  # type: ignore[no-any-return]


class BlockedMaxPool2d(nn.Module):
    """A maximum over blocked images, in our own kernel.

    Args:
        pool: The pool over planar images.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        pairs = ((value, value) if isinstance(value, int) else (value[0], value[1]) for value in settings)
        self.window = tuple(value for pair in pairs for value in pair)
        self.ceil_mode = pool.ceil_mode

    def forward(self, images: Float[Tensor, "n b h w v"]) -> Float[Tensor, "n b h2 w2 v"]:
        """Return the pooled images."""
        return max_pool2d_blocked(images, self.window, self.ceil_mode)

    def extra_repr(self) -> str:
        """Return what the pool does."""
        return f"window={self.window}, ceil_mode={self.ceil_mode}"

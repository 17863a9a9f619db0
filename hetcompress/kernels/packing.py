"""Dense weights to kept vectors and back, planar images to blocked ones and back.

With K = channels in a group * kernel rows * kernel columns, a block of V filters is a matrix (V, K); a column that has
any nonzero is a kept vector.  Filters that fill up the last block of a group are zero.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blocked", "count_kept", "pack", "planar", "unpack"]


def count_kept(weight: Num[Tensor, "filters channels kh kw"], groups: int, vector: int) -> int:
    """Return how many vectors `pack` would keep."""
    return int(_kept(_columns(weight, groups, vector)).sum())


def pack(
    weight: Num[Tensor, "filters channels kh kw"], groups: int, vector: int
) -> tuple[Num[Tensor, "vectors v"], Int[Tensor, " vectors"], Int[Tensor, " starts"]]:
    """Return the kept vectors of dense weights, real or integers, their taps, and where each block begins (int32)."""
    columns = _columns(weight, groups, vector)
    kept = _kept(columns)
    block, tap = kept.nonzero(as_tuple=True)
    counts = F.pad(kept.sum(1).cumsum(0), (1, 0))
    return columns[block, :, tap].contiguous(), tap.int(), counts.int()


def unpack(
    values: Float[Tensor, "vectors v"],
    taps: Int[Tensor, " vectors"],
    starts: Int[Tensor, " starts"],
    shape: tuple[int, int, int, int],
    groups: int,
) -> Float[Tensor, "filters channels kh kw"]:
    """Return dense weights of some shape (filters, channels in a group, rows, columns), differentiable in `values`."""
    vector, blocks, size = values.shape[1], starts.numel() - 1, shape[1] * shape[2] * shape[3]
    counts = starts.diff().long()
    block = counts.new_tensor(range(blocks)).repeat_interleave(counts, output_size=taps.numel())
    columns = values.new_zeros(blocks, size, vector).index_put((block, taps.long()), values)
    per_group = shape[0] // groups
    rows = columns.transpose(1, 2).reshape(groups, -1, size)[:, :per_group]
    return rows.reshape(shape)


def _columns(weight: Tensor, groups: int, vector: int) -> Tensor:
    """Return the weights as (blocks, V, K)."""
    size = weight[0].numel()
    rows = weight.reshape(groups, -1, size)
    rows = F.pad(rows, (0, 0, 0, -rows.shape[1] % vector))
    return rows.reshape(-1, vector, size)


def _kept(columns: Num[Tensor, "blocks v k"]) -> Bool[Tensor, "blocks k"]:
    return (columns != 0).any(1)


def blocked(images: Float[Tensor, "n c h w"], vector: int) -> Float[Tensor, "n b h w v"]:
    """Return planar images with V channels of a pixel beside each other, filled up with zeros."""
    spare = -images.shape[1] % vector
    padded = F.pad(images, (0, 0, 0, 0, 0, spare)) if spare else images
    blocks = padded.reshape(padded.shape[0], padded.shape[1] // vector, vector, *padded.shape[2:])
    return blocks.permute(0, 1, 3, 4, 2).contiguous()


def planar(images: Float[Tensor, "n b h w v"], channels: int) -> Float[Tensor, "n c h w"]:
    """Return blocked images with each channel's pixels beside each other."""
    return images.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, :channels].contiguous()

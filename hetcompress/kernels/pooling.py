"""Pooling of planar or blocked images; of single pixels, the change from one layout to the other.

``BlockedPool2d`` of the domain "hetcompress" is the operator in ONNX files, `src/pool.h` the function behind it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.kernels.library import VECTORS, call_library
from hetcompress.kernels.recycling import new_output

__all__ = ["LARGEST_KERNEL", "POOL_OPERATOR", "Pooling", "pool", "pool_attributes"]

POOL_OPERATOR = "BlockedPool2d"
LARGEST_KERNEL = 4096
"""Rows or columns that the library allows."""


class _PoolCall(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int64) for name in (
            "size", "vector", "batch", "channels", "in_height", "in_width", "out_height", "out_width",
        )],
        ("kernel", ctypes.c_int64 * 2),
        ("stride", ctypes.c_int64 * 2),
        ("padding", ctypes.c_int64 * 4),
        *[(name, ctypes.c_int64) for name in (
            "average", "count_padding", "round_up", "blocked_in", "blocked_out", "input_size",
            "output_size",
        )],
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("path", ctypes.c_char_p),
        ("parallel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pooling:
    """What pooling does; by default nothing but to change the layout.

    Attributes:
        channels: Of the images.
        vector: V: channels that lie beside each other in a blocked image; of planar ones, so many at a time.
        kernel_size: Rows and columns.
        stride: Rows and columns.
        padding: At the top, left, bottom and right; less than the kernel.
        average: Whether the result is the average of the pixels, or the largest of them.
        count_padding: Whether an average counts padding, as zeros.
        round_up: Whether a window that reaches beyond the padding counts, if it begins within the image.
        layout_in: 0 planar (N, C, H, W), 1 blocked (N, ceil(C / V), H, W, V).
        layout_out: Likewise of the output.

    Raises:
        UsageError: A number is out of range.
    """

    channels: int
    vector: int = VECTORS[-1]
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    average: bool = False
    count_padding: bool = False
    round_up: bool = False
    layout_in: int = 0
    layout_out: int = 0

    def __post_init__(self) -> None:
        if self.vector not in VECTORS or min(*self.stride, *self.kernel_size, self.channels) < 1:
            raise UsageError("pooling", expected=f"1 or more of all, vectors of {VECTORS}", found=str(self))

    @property
    def numbers(self) -> tuple[int, ...]:
        """All fields, one after another."""
        return (
            self.channels, self.vector, *self.kernel_size, *self.stride, *self.padding, int(self.average),
            int(self.count_padding), int(self.round_up), self.layout_in, self.layout_out,
        )  # fmt: skip

    @classmethod
    def from_numbers(cls, numbers: Sequence[int]) -> Pooling:
        """Return what has these `numbers`.

        Raises:
            UsageError: There are more or fewer of them, or one is out of range.
        """
        if len(numbers) != 15:
            raise UsageError("pooling", expected="15 numbers", found=str(len(numbers)))
        channels, vector, kh, kw, sy, sx, top, left, bottom, right, average, count, up, *layouts = numbers
        kinds = bool(average), bool(count), bool(up)
        return cls(channels, vector, (kh, kw), (sy, sx), (top, left, bottom, right), *kinds, *layouts)

    def between(self, before: int, after: int) -> Pooling:
        """Return this in the layouts of what it reads and writes: V of blocked ones, 0 of planar ones."""
        vector = before or after or self.vector
        return dataclasses.replace(self, vector=vector, layout_in=int(before > 0), layout_out=int(after > 0))

    def output_size(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Return the height and width of the output; sizes may be symbolic."""
        sizes = []
        for axis, size in enumerate((height, width)):
            before, step = self.padding[axis], self.stride[axis]
            room = size + before + self.padding[axis + 2] - self.kernel_size[axis]
            count = (-(-room // step) if self.round_up else room // step) + 1
            sizes.append(count - (self.round_up and (count - 1) * step >= size + before))
        return sizes[0], sizes[1]

    def shape(self, batch: Any, height: Any, width: Any, *, of_output: bool) -> tuple[Any, ...]:
        """Return the shape of images, of the input or of the output, in their layout; sizes may be symbolic."""
        blocked = self.layout_out if of_output else self.layout_in
        if not blocked:
            return (batch, self.channels, height, width)
        return (batch, -(-self.channels // self.vector), height, width, self.vector)


def pool(
    images: Float[Tensor, "*shape"], pooling: Pooling, *, threads: int = 1, path: str | None = None
) -> Float[Tensor, "*pooled"]:
    """Pool on the CPU in the library.

    The largest pixel is NaN if one of them is, as in torch.

    Args:
        images: In the layout that `pooling` says, float32.
        pooling: What to do.
        threads: Threads at most.
        path: An instruction set of `hetcompress.kernels.paths`; None for the best.

    Raises:
        UsageError: Sizes do not fit each other.
        HetCompressError: The library is missing or out of memory.
    """
    if images.dtype != torch.float32 or images.device.type != "cpu" or images.dim() != 4 + (pooling.layout_in == 1):
        raise UsageError("pooling", expected="float32 images on the CPU, in their layout", found=f"{images.dtype}")
    shape, numbers = _planned(pooling, images.shape)
    output = new_output(shape)
    held = images.contiguous()
    call = _PoolCall(
        *numbers, held.numel(), output.numel(), held.data_ptr(), output.data_ptr(), threads,
        path.encode() if path else None, None, None,
    )  # fmt: skip
    call_library("hetc_pool2d_run", call)
    return output


@functools.lru_cache(maxsize=256)
def _planned(p: Pooling, images: torch.Size) -> tuple[list[int], tuple[Any, ...]]:
    """Return the shape of the output, and the first fields of the call.

    Raises:
        UsageError: Images of another shape.
    """
    height, width = images[2:4]
    if images != p.shape(images[0], height, width, of_output=False):
        raise UsageError("pooling", expected=f"images of {p.channels} channels", found=f"shape {tuple(images)}")
    size = p.output_size(height, width)
    numbers = (
        ctypes.sizeof(_PoolCall), p.vector, images[0], p.channels, height, width, *size, p.kernel_size,
        p.stride, p.padding, p.average, p.count_padding, p.round_up, p.layout_in, p.layout_out,
    )  # fmt: skip
    return [max(n, 0) for n in p.shape(images[0], *size, of_output=True)], numbers


def pool_attributes(pooling: Pooling) -> dict[str, Any]:
    """Return what the ONNX operator needs to know."""
    return {
        "channels": pooling.channels, "vector": pooling.vector, "kernel_shape": list(pooling.kernel_size),
        "strides": list(pooling.stride), "pads": list(pooling.padding), "average": int(pooling.average),
        "count_include_pad": int(pooling.count_padding), "ceil_mode": int(pooling.round_up),
        "layout_in": pooling.layout_in, "layout_out": pooling.layout_out,
    }  # fmt: skip

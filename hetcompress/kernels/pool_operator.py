"""The torch operator ``hetcompress::max_pool2d_blocked``: maximum pooling of blocked images.

torch's own pool also notes where each maximum was, and knows no blocked images: as channels-last ones, which it takes
best, it needs several times as long (measured).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hetcompress.kernels import library

__all__ = ["max_pool2d_blocked", "of_channels_last"]

_LIBRARY: Any = torch.library.Library("hetcompress", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("max_pool2d_blocked(Tensor images, int[] window, bool ceil_mode) -> Tensor")


class _Call(ctypes.Structure):
    """`hetc_max_pool` of `src/vector_block.h`."""

    _fields_ = (
        *[(name, ctypes.c_int64) for name in (
            "size", "vector", "images", "height", "width", "out_height", "out_width",
        )],
        *[(name, ctypes.c_int64 * 2) for name in ("kernel", "stride", "padding", "dilation")],
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    )  # fmt: skip


def max_pool2d_blocked(images: Tensor, window: Sequence[int], ceil_mode: bool) -> Tensor:
    """Return the maxima of blocked images.

    Args:
        images: Shape (N, blocks, H, W, V).
        window: Kernel size, stride, padding and dilation, each as rows and columns.
        ceil_mode: As for `torch.nn.MaxPool2d`.
    """
    result: Tensor = torch.ops.hetcompress.max_pool2d_blocked.default(images, window, ceil_mode)
    return result


def of_channels_last(images: Tensor) -> Tensor:
    """Return blocked images (n, b, h, w, v) as channels-last ones (n * b, v, h, w), in the same memory."""
    return images.flatten(0, 1).permute(0, 3, 1, 2)


def _dense(images: Tensor, window: Sequence[int], ceil_mode: bool) -> Tensor:
    """The same function from torch's operators, differentiable."""
    size, stride, padding, dilation = (list(window[i : i + 2]) for i in (0, 2, 4, 6))
    pooled = F.max_pool2d(of_channels_last(images), size, stride, padding, dilation, ceil_mode)
    return pooled.permute(0, 2, 3, 1).reshape(*images.shape[:2], *pooled.shape[2:], images.shape[4])


def _shape(shape: Sequence[Any], window: Sequence[int], ceil_mode: bool) -> tuple[Any, ...]:
    sizes = []
    for axis in (0, 1):
        size, stride, padding, dilation = window[axis::2]
        left_over = shape[2 + axis] + 2 * padding - (size - 1) * dilation - 1
        steps = left_over // stride
        # a last window that is not whole counts if it begins in the image, or in the padding before it
        if ceil_mode and left_over % stride and (steps + 1) * stride < shape[2 + axis] + padding:
            steps += 1
        sizes.append(steps + 1)
    return (*shape[:2], *sizes, shape[4])


def _on_cpu(images: Tensor, window: Sequence[int], ceil_mode: bool) -> Tensor:
    if images.dtype != torch.float32 or not library.available()[0]:
        return _dense(images, window, ceil_mode)
    n, blocks, height, width, vector = images.shape
    images = images.contiguous()
    output = images.new_empty(_shape(images.shape, window, ceil_mode))
    kernel, stride, padding, dilation = (tuple(window[i : i + 2]) for i in (0, 2, 4, 6))
    call = _Call(
        ctypes.sizeof(_Call), vector, n * blocks, height, width, output.shape[2], output.shape[3], kernel, stride,
        padding, dilation, images.data_ptr(), output.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    library.call_library("hetc_max_pool_run", call)
    return output


def _shape_only(images: Tensor, window: Sequence[int], ceil_mode: bool) -> Tensor:
    return images.new_empty(_shape(images.shape, window, ceil_mode))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(inputs[0])
    ctx.settings = inputs[1:]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        images = ctx.saved_tensors[0].detach().requires_grad_()
        (found,) = torch.autograd.grad(_dense(images, *ctx.settings), images, gradient)
    return found, None, None


_LIBRARY.impl("max_pool2d_blocked", _on_cpu, "CPU")
_LIBRARY.impl("max_pool2d_blocked", _dense, "CUDA")
torch.library.register_fake("hetcompress::max_pool2d_blocked", _shape_only, lib=_LIBRARY)
torch.library.register_autograd("hetcompress::max_pool2d_blocked", _gradients, setup_context=_remember, lib=_LIBRARY)

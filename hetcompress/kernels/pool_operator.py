"""The torch operator ``hetcompress::blocked_pool2d``: pools and reorders by the library on the CPU, by torch elsewhere.

torch's own pools know no blocked images, and a maximum also notes where it was, which takes several times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hetcompress.errors import UsageError
from hetcompress.kernels import library
from hetcompress.kernels.packing import blocked, planar
from hetcompress.kernels.pooling import Pooling, pool

__all__ = ["POOL_NAME", "blocked_pool2d"]

POOL_NAME = "hetcompress::blocked_pool2d"

_LIBRARY: Any = torch.library.Library("hetcompress", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("blocked_pool2d(Tensor images, int[] pooling) -> Tensor")


def blocked_pool2d(images: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return pooled images; see `hetcompress.kernels.pooling.pool` for shapes and errors.

    Args:
        images: In the layout that the pooling says.
        numbers: Of a `Pooling`.
    """
    result: Tensor = torch.ops.hetcompress.blocked_pool2d.default(images, numbers)
    return result


def _dense(images: Tensor, numbers: Sequence[int]) -> Tensor:
    """The same function from torch's operators, differentiable, and contiguous."""
    p = Pooling.from_numbers(numbers)
    top, left, bottom, right = p.padding
    if (top, left) != (bottom, right):
        raise UsageError("pooling", expected="torch pads both sides alike", found=str(p))
    if p.layout_in:
        images = planar(images, p.channels)
    if p.average:
        pooled = F.avg_pool2d(images, p.kernel_size, p.stride, (top, left), p.round_up, p.count_padding)
    else:
        pooled = F.max_pool2d(images, p.kernel_size, p.stride, (top, left), ceil_mode=p.round_up)
    return blocked(pooled, p.vector) if p.layout_out else pooled.contiguous()


def _on_cpu(images: Tensor, numbers: Sequence[int]) -> Tensor:
    if images.dtype != torch.float32 or not library.available()[0]:
        return _dense(images, numbers)
    return pool(images, _pooling(tuple(numbers)), threads=torch.get_num_threads())


@functools.lru_cache(maxsize=256)
def _pooling(numbers: tuple[int, ...]) -> Pooling:
    return Pooling.from_numbers(numbers)


def _shape_only(images: Tensor, numbers: Sequence[int]) -> Tensor:
    p = Pooling.from_numbers(numbers)
    size = p.output_size(*images.shape[2:4])
    return images.new_empty(p.shape(images.shape[0], *size, of_output=True))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(inputs[0])
    ctx.numbers = inputs[1]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (images,), twice = ctx.saved_tensors, torch.is_grad_enabled()  # as for `create_graph`
    with torch.enable_grad():
        images = images if twice else images.detach().requires_grad_()
        (found,) = torch.autograd.grad(_dense(images, ctx.numbers), images, gradient, create_graph=twice)
    return found, None


_LIBRARY.impl("blocked_pool2d", _on_cpu, "CPU")
_LIBRARY.impl("blocked_pool2d", _dense, "CUDA")
torch.library.register_fake(POOL_NAME, _shape_only, lib=_LIBRARY)
torch.library.register_autograd(POOL_NAME, _gradients, setup_context=_remember, lib=_LIBRARY)

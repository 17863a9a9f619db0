"""The torch operator ``hetcompress::vector_block_conv2d``: the library on the CPU, dense torch anywhere else.

`torch.export` and `torch.compile` keep it as one node.  Gradients flow to the images, the values, the bias and the
residual, through the dense form; the positions of the kept vectors are data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hetcompress.errors import UsageError
from hetcompress.kernels import library
from hetcompress.kernels.library import Geometry
from hetcompress.kernels.packing import blocked, planar, unpack
from hetcompress.kernels.plans import planned_run

__all__ = ["NAME", "arguments", "vector_block_conv2d"]

NAME = "hetcompress::vector_block_conv2d"

_LIBRARY: Any = torch.library.Library("hetcompress", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "vector_block_conv2d(Tensor images, Tensor values, Tensor taps, Tensor starts, Tensor? bias, Tensor? residual, "
    "int[] geometry, float low, float high) -> Tensor"
)


def arguments(geometry: Geometry) -> tuple[Any, ...]:
    """Return a geometry as the operator's last arguments: few and flat, since torch converts each at every call."""
    return geometry.numbers, geometry.low, geometry.high


def vector_block_conv2d(
    images: Tensor,
    values: Tensor,
    taps: Tensor,
    starts: Tensor,
    geometry: Geometry,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return the convolution; see `hetcompress.kernels.library.run` for shapes and errors."""
    operator = torch.ops.hetcompress.vector_block_conv2d.default
    result: Tensor = operator(images, values, taps, starts, bias, residual, *arguments(geometry))
    return result


def _check_type(images: Tensor) -> None:
    """Refuse integers: the weights would be rounded to them."""
    if not images.is_floating_point():
        raise UsageError("images", expected="floating point numbers", found=str(images.dtype), fix="images.float()")


def _dense(
    images: Tensor, values: Tensor, taps: Tensor, starts: Tensor, bias: Tensor | None, residual: Tensor | None,
    numbers: Sequence[int], low: float, high: float,
) -> Tensor:  # fmt: skip
    """The same function from torch's operators, differentiable; contiguous and of the images' type, as fakes are."""
    _check_type(images)
    geometry, vector = Geometry.from_numbers(numbers, low, high), values.shape[1]
    size = (geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel_size)
    bias, residual = (x if x is None else x.to(images.dtype) for x in (bias, residual))
    weight = unpack(values.to(images.dtype), taps, starts, size, geometry.groups)
    if geometry.layout_in:
        images = planar(images, geometry.in_channels)
    top, left, bottom, right = geometry.padding
    images = F.pad(images, (left, right, top, bottom))
    with torch.autocast(images.device.type, enabled=False):
        result = F.conv2d(images, weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)
    if residual is not None:
        if geometry.layout_out:
            residual = planar(residual, geometry.out_channels)
        result = result + residual
    if geometry.low > float("-inf") or geometry.high < float("inf"):
        result = result.clamp(geometry.low, geometry.high)
    return blocked(result, vector) if geometry.layout_out else result.contiguous()


def _on_cpu(
    images: Tensor, values: Tensor, taps: Tensor, starts: Tensor, bias: Tensor | None, residual: Tensor | None,
    numbers: Sequence[int], low: float, high: float,
) -> Tensor:  # fmt: skip
    if images.dtype != torch.float32 or not library.available()[0]:
        return _dense(images, values, taps, starts, bias, residual, numbers, low, high)
    return planned_run(images, values, taps, starts, bias, residual, (*numbers, low, high))


def _shape_only(
    images: Tensor, values: Tensor, _taps: Any, _starts: Any, _bias: Any, _residual: Any, *settings: Any
) -> Tensor:
    _check_type(images)
    return images.new_empty(Geometry.from_numbers(*settings).output_shape(images.shape, values.shape[1]))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:6])
    ctx.settings = inputs[6:]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    saved, twice = ctx.saved_tensors, torch.is_grad_enabled()  # as for `create_graph`: then the gradients have some too
    places = [i for i in (0, 1, 4, 5) if saved[i] is not None and ctx.needs_input_grad[i]]
    with torch.enable_grad():
        inputs = [saved[i].detach().requires_grad_() if i in places and not twice else saved[i] for i in range(6)]
        result = _dense(*inputs, *ctx.settings)
    wanted = [inputs[i] for i in places]
    found = dict(zip(places, torch.autograd.grad(result, wanted, gradient, create_graph=twice), strict=True))
    return (*(found.get(i) for i in range(6)), *(None for _ in ctx.settings))


_LIBRARY.impl("vector_block_conv2d", _on_cpu, "CPU")
_LIBRARY.impl("vector_block_conv2d", _dense, "CUDA")
torch.library.register_fake(NAME, _shape_only, lib=_LIBRARY)
torch.library.register_autograd(NAME, _gradients, setup_context=_remember, lib=_LIBRARY)

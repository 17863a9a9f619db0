"""The convolution over kept vectors in 8 bits, in the compiled library (`src/int8.h`).

    real = (held - zero) * scale

Activations are held as uint8 with one scale and one zero for a tensor; weights as int8 with one scale for each filter
and zero 0.  Images are planar, as every runtime holds them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.kernels.library import Call, Geometry, call_library, opened

__all__ = ["Held", "int8_paths", "quantise_filters", "run_int8"]

_PATHS = ("avx512vnni", "avx2", "portable")


class _Int8Call(ctypes.Structure):
    _fields_ = (
        ("conv", Call),
        *[(name, ctypes.c_void_p) for name in (
            "input", "values", "bias", "residual", "output", "real_output", "weight_scales",
        )],
        *[(name, ctypes.c_float) for name in ("input_scale", "output_scale", "residual_scale")],
        *[(name, ctypes.c_int32) for name in ("input_zero", "output_zero", "residual_zero")],
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Held:
    """How real numbers are held as uint8.

    Attributes:
        scale: What one step is worth; above 0.
        zero: What 0.0 is held as; 0 to 255.

    Raises:
        UsageError: The scale is no positive number, or zero is no uint8.
    """

    scale: float = 1.0
    zero: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.zero <= 255):
            raise UsageError("int8 tensor", expected="a scale above 0 and a zero of 0 to 255", found=str(self))

    def quantise(self, real: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        """Return real numbers as they are held: rounded half to even, and clamped."""
        return ((real / self.scale).round() + self.zero).clamp(0, 255).to(torch.uint8)

    def real(self, held: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return what held numbers stand for."""
        return (held.float() - self.zero) * self.scale


def quantise_filters(
    values: Float[Tensor, "vectors v"], starts: Int[Tensor, " starts"], filters: int, groups: int
) -> tuple[Int8[Tensor, "vectors v"], Float[Tensor, " filters"]]:
    """Return kept vectors as int8 and each filter's scale, which maps its largest weight to 127.

    Args:
        values: Kept vectors.
        starts: Where each block of V filters begins among them, and the end.
        filters: Filters of the convolution.
        groups: Its groups.
    """
    vector, blocks = values.shape[1], starts.numel() - 1
    block = torch.arange(blocks).repeat_interleave(starts.diff().long())
    largest = values.new_zeros(blocks, vector)
    largest.scatter_reduce_(0, block[:, None].expand_as(values), values.detach().abs(), "amax")
    # a filter without any weight has zeros whatever its scale is
    scales = torch.where(largest > 0, largest / 127, 1.0).clamp_min(torch.finfo(torch.float32).tiny)
    held = (values.detach() / scales[block]).round().clamp(-127, 127).to(torch.int8)
    return held, scales.reshape(groups, -1)[:, : filters // groups].reshape(-1).contiguous()


def int8_paths() -> tuple[str, ...]:
    """Return the instruction sets of the 8-bit kernel that this processor runs, the best first."""
    return tuple(name for name in _PATHS if opened().hetc_int8_has_path(name.encode()))


def run_int8(
    images: Tensor,
    values: Tensor,
    taps: Tensor,
    starts: Tensor,
    geometry: Geometry,
    *,
    weight_scales: Tensor,
    held_in: Held,
    held_out: Held | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    held_residual: Held | None = None,
    threads: int = 1,
    path: str | None = None,
) -> Tensor:
    """Convolve in 8 bits on the CPU in the library; sums are exact modulo 2^32, the result is rounded half to even.

    Args:
        images: Shape (N, C, H, W), uint8.
        values: Kept vectors, shape (vectors, V), int8.
        taps: Of each, (channel in the group * kernel rows + row) * kernel columns + column, int32.
        starts: Where each block of V filters begins in `values`, and their end, shape (blocks + 1,), int32.
        geometry: The convolution; both layouts are planar, and its limits are real numbers.
        weight_scales: What one step of a filter's weights is worth, shape (filters,), float32.
        held_in: How the images are held.
        held_out: How the result is; None for a result of float32.
        bias: In steps of the filter's scale times that of the images, shape (filters,), int32.
        residual: Added before the result is clamped; uint8, of the shape of the output.
        held_residual: How that is held.
        threads: Threads at most.
        path: An instruction set of `int8_paths`; None for the best.

    Raises:
        UsageError: Sizes, types or indices do not fit each other.
        HetCompressError: The library is missing or out of memory.
    """
    vector = values.shape[1] if values.dim() == 2 else 0
    shape = geometry.output_shape(images.shape, vector) if images.dim() == 4 else ()
    _check(images, values, taps, starts, geometry, weight_scales, bias, residual, shape)
    output = torch.empty([max(size, 0) for size in shape], dtype=torch.uint8 if held_out else torch.float32)
    tensors = (
        images,
        values,
        bias,
        residual,
        output if held_out else None,
        None if held_out else output,
        weight_scales,
    )
    held = [None if tensor is None else tensor.contiguous() for tensor in (*tensors, taps, starts)]
    *buffers, tap_buffer, start_buffer = (None if tensor is None else tensor.data_ptr() for tensor in held)
    other = held_residual or Held()
    g = geometry
    conv = Call(
        ctypes.sizeof(_Int8Call), vector, images.shape[0], g.in_channels, *images.shape[2:], g.out_channels,
        *shape[2:4], g.groups, g.kernel_size, g.stride, g.dilation, g.padding, g.layout_in, g.layout_out,
        taps.numel(), starts.numel() - 1, images.numel(), output.numel(), None, None, tap_buffer, start_buffer, None,
        None, None, g.low, g.high, threads, path.encode() if path else None, None, None,
    )  # fmt: skip
    out = held_out or Held()
    call = _Int8Call(conv, *buffers, held_in.scale, out.scale, other.scale, held_in.zero, out.zero, other.zero)
    call_library("hetc_int8_conv2d_run", call)
    return output


def _check(
    images: Tensor, values: Tensor, taps: Tensor, starts: Tensor, geometry: Geometry, weight_scales: Tensor,
    bias: Tensor | None, residual: Tensor | None, shape: tuple[int, ...],
) -> None:  # fmt: skip
    """Check what the library cannot see of tensors."""
    types = [
        ("images", images, torch.uint8), ("values", values, torch.int8), ("taps", taps, torch.int32),
        ("starts", starts, torch.int32), ("weight scales", weight_scales, torch.float32), ("bias", bias, torch.int32),
        ("residual", residual, torch.uint8),
    ]  # fmt: skip
    for name, tensor, dtype in types:
        if tensor is not None and (tensor.dtype != dtype or tensor.device.type != "cpu"):
            raise UsageError(f"int8 kernel, {name}", expected=f"{dtype} on the CPU", found=f"{tensor.dtype}")
    if images.dim() != 4 or images.shape[1] != geometry.in_channels:
        raise UsageError(
            "int8 kernel", expected=f"planar images of {geometry.in_channels} channels",
            found=f"shape {tuple(images.shape)}",
        )  # fmt: skip
    if taps.numel() != values.shape[0]:
        raise UsageError("int8 kernel", expected="one tap for each vector", found=f"{taps.numel()}, {len(values)}")
    for name, tensor in (("weight scales", weight_scales), ("biases", bias)):
        if tensor is not None and tensor.numel() != geometry.out_channels:
            raise UsageError("int8 kernel", expected=f"{geometry.out_channels} {name}", found=str(tensor.numel()))
    if residual is not None and residual.shape != shape:
        raise UsageError("int8 kernel", expected=f"a residual of shape {shape}", found=str(tuple(residual.shape)))

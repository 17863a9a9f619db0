"""The compiled library behind its C interface (`src/vector_block.h`), opened with ctypes on first use."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hetcompress.errors import HetCompressError, UsageError
from hetcompress.kernels.build import library_path
from hetcompress.kernels.recycling import new_output

__all__ = ["Geometry", "available", "best_path", "best_vector", "has_path", "paths", "run"]

VECTORS = (4, 8, 16)
"""Vector lengths that the library has code for."""

_PATHS = ("avx512", "avx2", "portable")
_PROCESS = os.getpid()
"""A child that is forked off and opens the library itself lacks the threads of its parent's OpenMP."""
_OK, _INVALID = 0, 1


class Call(ctypes.Structure):
    """`hetc_conv2d` of `src/vector_block.h`."""

    _fields_ = (
        *[(name, ctypes.c_int64) for name in (
            "size", "vector", "batch", "in_channels", "in_height", "in_width", "out_channels", "out_height",
            "out_width", "groups",
        )],
        ("kernel", ctypes.c_int64 * 2),
        ("stride", ctypes.c_int64 * 2),
        ("dilation", ctypes.c_int64 * 2),
        ("padding", ctypes.c_int64 * 4),
        *[(name, ctypes.c_int64) for name in (
            "blocked_in", "blocked_out", "vectors", "blocks", "input_size", "output_size",
        )],
        *[(name, ctypes.c_void_p) for name in ("input", "values", "taps", "starts", "bias", "residual", "output")],
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("threads", ctypes.c_int64),
        ("path", ctypes.c_char_p),
        ("parallel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a vector-block convolution does, besides its weights.

    Attributes:
        in_channels: Channels of the input.
        out_channels: Filters.
        groups: Conv groups.
        kernel_size: Rows and columns of a kernel.
        stride: Rows and columns.
        padding: Zeros at the top, left, bottom and right.
        dilation: Rows and columns.
        layout_in: Of the input: 0 planar (N, C, H, W), 1 blocked (N, ceil(C / V), H, W, V).
        layout_out: Of the output and of what is added to it.
        low: The result is not less than this.
        high: Nor more than this.

    Raises:
        UsageError: A stride, or the number of groups, is less than 1.
    """

    in_channels: int
    out_channels: int
    groups: int = 1
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    layout_in: int = 0
    layout_out: int = 0
    low: float = float("-inf")
    high: float = float("inf")

    def __post_init__(self) -> None:
        if min(*self.stride, self.groups) < 1:
            raise UsageError("stride, groups", expected="1 or more", found=f"{self.stride}, {self.groups}")

    @property
    def numbers(self) -> tuple[int, ...]:
        """All fields but the limits, one after another."""
        return (
            self.in_channels, self.out_channels, self.groups, *self.kernel_size, *self.stride, *self.padding,
            *self.dilation, self.layout_in, self.layout_out,
        )  # fmt: skip

    @classmethod
    def from_numbers(cls, numbers: Sequence[int], low: float, high: float) -> Geometry:
        """Return the geometry that has these `numbers`."""
        inside, out, groups, kh, kw, sy, sx, top, left, bottom, right, dy, dx, layout_in, layout_out = numbers
        return cls(
            inside, out, groups, (kh, kw), (sy, sx), (top, left, bottom, right), (dy, dx), layout_in, layout_out, low,
            high,
        )  # fmt: skip

    def blocks(self, vector: int) -> int:
        """Return the number of filter blocks for a vector length."""
        return self.groups * -(-(self.out_channels // self.groups) // vector)

    def output_shape(self, input_shape: Sequence[Any], vector: Any) -> tuple[Any, ...]:
        """Return the shape of the output for an input of some shape; sizes may be symbolic."""
        height, width = input_shape[2], input_shape[3]
        sizes = []
        for axis, size in enumerate((height, width)):
            padded = size + self.padding[axis] + self.padding[axis + 2]
            sizes.append((padded - (self.kernel_size[axis] - 1) * self.dilation[axis] - 1) // self.stride[axis] + 1)
        if self.layout_out:
            return (input_shape[0], -(-self.out_channels // vector), sizes[0], sizes[1], vector)
        return (input_shape[0], self.out_channels, sizes[0], sizes[1])


@functools.cache
def _library() -> ctypes.CDLL | str:
    path = library_path()
    if not path.is_file():
        return "the library is not built; with a C++ compiler, run python -m hetcompress.kernels"
    try:
        library = ctypes.CDLL(str(path))
        library.hetc_conv2d_run.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
        library.hetc_conv2d_plan.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
        library.hetc_conv2d_plan.restype = ctypes.c_void_p
        library.hetc_plan_run.argtypes = (ctypes.c_void_p,) * 6
        library.hetc_plan_free.argtypes = (ctypes.c_void_p,)
        library.hetc_pool2d_run.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
        library.hetc_has_path.argtypes = (ctypes.c_char_p,)
        library.hetc_best_path.restype = ctypes.c_char_p
        library.hetc_best_vector.restype = ctypes.c_int64
        library.hetc_int8_conv2d_run.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
        library.hetc_int8_has_path.argtypes = (ctypes.c_char_p,)
        if os.getpid() != _PROCESS:
            library.hetc_forked()
    except (OSError, AttributeError) as error:
        return f"the library cannot be opened: {error}; build it anew by python -m hetcompress.kernels"
    named = os.environ.get("HETCOMPRESS_KERNEL_PATH")
    has = (library.hetc_has_path, library.hetc_int8_has_path)
    if named and not any(has_path(named.encode()) for has_path in has):
        known = ", ".join(name for name in _PATHS if library.hetc_has_path(name.encode()))
        return f"HETCOMPRESS_KERNEL_PATH names '{named}', and not one of {known}: name one of them, or unset it"
    return library


def opened() -> ctypes.CDLL:
    """Return the library.

    Raises:
        HetCompressError: It is not built or cannot be opened, or the environment names an instruction set in vain.
    """
    library = _library()
    if isinstance(library, str):
        raise HetCompressError("kernels", expected="the compiled library", found=library)
    return library


def available() -> tuple[bool, str]:
    """Return whether the compiled kernels can be used here, and which ones, or why not."""
    library = _library()
    return (False, library) if isinstance(library, str) else (True, best_path())


def has_path(name: str) -> bool:
    """Return whether this processor runs the instruction set "avx512", "avx2" or "portable"."""
    return bool(opened().hetc_has_path(name.encode()))


def paths() -> tuple[str, ...]:
    """Return the instruction sets that this processor runs, the best first."""
    return tuple(name for name in _PATHS if has_path(name))


def best_path() -> str:
    """Return the instruction set that is used unless another is asked for."""
    name: bytes = opened().hetc_best_path()
    return name.decode()


def best_vector() -> int:
    """Return the vector length that fills a register of the best instruction set."""
    return int(opened().hetc_best_vector())


def run(
    images: Tensor,
    values: Tensor,
    taps: Tensor,
    starts: Tensor,
    geometry: Geometry,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    threads: int = 1,
    path: str | None = None,
) -> Tensor:
    """Convolve on the CPU in the library.

    Args:
        images: Shape (N, C, H, W) or, blocked, (N, ceil(C / V), H, W, V).
        values: Kept vectors, shape (vectors, V).
        taps: Of each, (channel in the group * kernel rows + row) * kernel columns + column, int32.
        starts: Where each block of V filters begins in `values`, and their end, shape (blocks + 1,), int32.
        geometry: The convolution.
        bias: Shape (filters,).
        residual: Added before the result is clamped; of the shape of the output.
        threads: Threads at most.
        path: An instruction set of `paths`; None for the best.

    Returns:
        The result, in the layout that `geometry` asks for.

    Raises:
        UsageError: Sizes, types or indices do not fit each other.
        HetCompressError: The library is missing or out of memory.
    """
    call, output, _held = prepared(
        images, values, taps, starts, geometry, bias=bias, residual=residual, threads=threads, path=path
    )
    call_library("hetc_conv2d_run", call)
    return output


def prepared(
    images: Tensor,
    values: Tensor,
    taps: Tensor,
    starts: Tensor,
    geometry: Geometry,
    *,
    bias: Tensor | None,
    residual: Tensor | None,
    threads: int,
    path: str | None = None,
) -> tuple[Call, Tensor, list[Tensor | None]]:
    """Return a call of the C interface, what it will write, and the tensors that must live until it has.

    Raises:
        UsageError: As `run`.
    """
    vector = values.shape[1] if values.dim() == 2 else 0
    given = [images, values, *(tensor for tensor in (bias, residual) if tensor is not None)]
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in given):
        raise UsageError("kernels", expected="float32 tensors on the CPU")
    if taps.dtype != torch.int32 or starts.dtype != torch.int32 or taps.numel() != values.shape[0]:
        raise UsageError("kernels", expected="int32 taps, one for each vector, and int32 starts")
    blocked = geometry.layout_in == 1
    channels = -(-geometry.in_channels // max(vector, 1)) if blocked else geometry.in_channels
    if images.dim() != 4 + blocked or images.shape[1] != channels or (blocked and images.shape[4] != vector):
        raise UsageError(
            "kernels", expected=f"{'blocked' if blocked else 'planar'} images of {geometry.in_channels} channels",
            found=f"shape {tuple(images.shape)}",
        )  # fmt: skip
    if bias is not None and bias.numel() != geometry.out_channels:
        raise UsageError("kernels", expected=f"{geometry.out_channels} biases", found=str(bias.numel()))
    shape = geometry.output_shape(images.shape, vector)
    if residual is not None and residual.shape != shape:
        raise UsageError("kernels", expected=f"a residual of shape {shape}", found=str(tuple(residual.shape)))
    output = new_output([max(size, 0) for size in shape])
    held = [t if t is None else t.contiguous() for t in (images, values, taps, starts, bias, residual, output)]
    call = Call(
        ctypes.sizeof(Call), vector, images.shape[0], geometry.in_channels, *images.shape[2:4],
        geometry.out_channels, *shape[2:4], geometry.groups, geometry.kernel_size, geometry.stride, geometry.dilation,
        geometry.padding, geometry.layout_in, geometry.layout_out, taps.numel(), starts.numel() - 1, images.numel(),
        output.numel(), *(None if tensor is None else tensor.data_ptr() for tensor in held), geometry.low,
        geometry.high, threads, path.encode() if path else None, None, None,
    )  # fmt: skip
    return call, output, held


def call_library(function: str, call: ctypes.Structure) -> None:
    """Make a call of the C interface.

    Raises:
        UsageError: Its arguments do not fit each other.
        HetCompressError: The library is missing or out of memory.
    """
    message = ctypes.create_string_buffer(200)
    raise_for(getattr(opened(), function)(ctypes.addressof(call), message, len(message)), message)


def raise_for(code: int, message: ctypes.Array[ctypes.c_char]) -> None:
    """Turn what a call of the C interface answered into an exception, unless it went well."""
    if code != _OK:
        kind = UsageError if code == _INVALID else HetCompressError
        raise kind("kernels", found=message.value.decode(errors="replace"))

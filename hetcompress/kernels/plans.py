"""What of a call depends on sizes and positions alone, worked out once for each layer and image size.

Checking a call and finding where each kept vector reads takes as long as a small layer's arithmetic.  Plans live as
long as the positions that they were made from, and are made anew when those change.  What is written through `.data`
they do not see: torch does not count it as a change.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hetcompress.kernels import library
from hetcompress.kernels.library import Geometry
from hetcompress.kernels.recycling import new_output

__all__ = ["Plan", "planned_run"]

MOST = 32
"""Plans of one layer: images of more sizes than these are seldom seen in turns."""


class Plan:
    """A checked call without its numbers.

    Args:
        images: Of the sizes to plan for, as for `library.run`, which tells the errors too.
        values: Likewise.
        taps: Likewise.
        starts: Likewise.
        geometry: Likewise.
        bias: Likewise.
        residual: Likewise.
        threads: Likewise.
    """

    def __init__(
        self, images: Tensor, values: Tensor, taps: Tensor, starts: Tensor, geometry: Geometry, *,
        bias: Tensor | None, residual: Tensor | None, threads: int,
    ) -> None:  # fmt: skip
        call, output, _held = library.prepared(
            images, values, taps, starts, geometry, bias=bias, residual=residual, threads=threads
        )
        # found by its id in the key of this plan, which another tensor could get if this one were gone
        self.starts = starts
        self.shape = output.shape
        opened, code, message = library.opened(), ctypes.c_int(), ctypes.create_string_buffer(200)
        self._run, self._free = opened.hetc_plan_run, opened.hetc_plan_free
        self._plan = opened.hetc_conv2d_plan(ctypes.addressof(call), ctypes.addressof(code), message, len(message))
        library.raise_for(code.value, message)

    def run(self, images: Tensor, values: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """Convolve contiguous float32 tensors of the planned sizes."""
        output = new_output(self.shape)
        code = self._run(
            self._plan, images.data_ptr(), values.data_ptr(), None if bias is None else bias.data_ptr(),
            None if residual is None else residual.data_ptr(), output.data_ptr(),
        )  # fmt: skip
        if code:
            library.raise_for(code, ctypes.create_string_buffer(b"out of memory or threads"))
        return output

    def __del__(self) -> None:
        if getattr(self, "_plan", None):
            self._free(self._plan)


_PLANS: Any = WeakTensorKeyDictionary()
"""Of the taps of each layer: its plans by all that they depend on."""


def planned_run(
    images: Tensor, values: Tensor, taps: Tensor, starts: Tensor, bias: Tensor | None, residual: Tensor | None,
    settings: tuple[Any, ...],
) -> Tensor:  # fmt: skip
    """Convolve in the library as `library.run` does, with a plan that was made before if there is one.

    Args:
        images: As for `library.run`, which also tells the errors.
        values: Likewise.
        taps: Likewise.
        starts: Likewise.
        bias: Likewise.
        residual: Likewise.
        settings: The numbers of a `Geometry` and its limits.
    """
    threads = torch.get_num_threads()
    if taps.is_inference() or starts.is_inference():  # these do not tell whether they have been written to
        return library.run(
            images, values, taps, starts, _geometry(settings), bias=bias, residual=residual, threads=threads
        )
    images, values = images.contiguous(), values.contiguous()
    bias, residual = (
        bias if bias is None else bias.contiguous(),
        residual if residual is None else residual.contiguous(),
    )
    key = (
        settings, threads, images.shape, _kind(values), _kind(bias), _kind(residual), taps._version,  # noqa: SLF001
        id(starts), starts._version,  # noqa: SLF001
    )  # fmt: skip
    plans: dict[Hashable, Plan] = _PLANS.get(taps) or _PLANS.setdefault(taps, {})
    plan = plans.get(key)
    if plan is None:
        plan = Plan(images, values, taps, starts, _geometry(settings), bias=bias, residual=residual, threads=threads)
        if len(plans) >= MOST:
            plans.clear()
        plans[key] = plan
    return plan.run(images, values, bias, residual)


def _geometry(settings: tuple[Any, ...]) -> Geometry:
    return Geometry.from_numbers(settings[:-2], *settings[-2:])


def _kind(tensor: Tensor | None) -> Hashable:
    return None if tensor is None else (tensor.shape, tensor.dtype)

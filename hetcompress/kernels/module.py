"""The convolution over kept vectors as a module."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.errors import UsageError
from hetcompress.kernels.library import VECTORS, Geometry
from hetcompress.kernels.packing import pack, unpack
from hetcompress.kernels.torch_operator import arguments
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Form

__all__ = ["VectorBlockConv2d"]


class VectorBlockConv2d(Form):
    """A convolution that executes only the kept vectors of V filters x one input channel x one tap.

    Args:
        weight: Dense weights with zeros, shape (filters, channels in a group, rows, columns).  A vector is kept if any
            of its V weights is not zero.
        bias: Shape (filters,), or None.
        geometry: What else there is to the convolution.
        vector: V: 4, 8 or 16.  A group's filters are filled up with zeros to a multiple of it.

    Attributes:
        values: The kept vectors, a parameter of shape (vectors, V).
        taps: Where each reads, int32: (channel in the group * kernel rows + row) * kernel columns + column.
        starts: Where each block of V filters begins in `values`, and the end, int32.

    Raises:
        UsageError: The weights do not fit the geometry, or V is unknown.
    """

    taps: Tensor
    starts: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Float[Tensor, "filters channels kh kw"], bias: Tensor | None, geometry: Geometry, vector: int
    ) -> None:
        super().__init__()
        if vector not in VECTORS:
            raise UsageError("vector length", expected=f"one of {', '.join(map(str, VECTORS))}", found=str(vector))
        shape = (geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel_size)
        if weight.shape != shape or geometry.out_channels % geometry.groups:
            raise UsageError("weights", expected=f"shape {shape}", found=str(tuple(weight.shape)))
        self.geometry, self.vector, self._arguments = geometry, vector, arguments(geometry)
        values, taps, starts = pack(weight.detach(), geometry.groups, vector)
        self.values = nn.Parameter(values)
        self.register_buffer("taps", taps)
        self.register_buffer("starts", starts)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))

    @classmethod
    def from_pruned(
        cls, conv: nn.Conv2d, vector: int, *, padding: tuple[int, int, int, int] | None = None
    ) -> VectorBlockConv2d:
        """Return the kept vectors of a pruned layer, or of any convolution that has zeros.

        Args:
            conv: A `HetConv2d`, whose mask is applied, or another convolution.
            vector: V: 4, 8 or 16.
            padding: Zeros at the top, left, bottom and right; None for the layer's own padding.

        Raises:
            UsageError: It is no `Conv2d`, its own padding is not of zeros, or V is unknown.
        """
        if not isinstance(conv, nn.Conv2d):
            raise UsageError("layer", expected="a Conv2d", found=type(conv).__name__)
        if padding is None and conv.padding_mode != "zeros":
            raise UsageError("padding mode", expected="'zeros'", found=f"'{conv.padding_mode}'")
        weight = (conv.masked_weight() if isinstance(conv, HetConv2d) else conv.weight).detach()
        (rows, columns), (stride_y, stride_x), (dilation_y, dilation_x) = conv.kernel_size, conv.stride, conv.dilation
        geometry = Geometry(
            conv.in_channels, conv.out_channels, conv.groups, (rows, columns), (stride_y, stride_x),
            _padding(conv) if padding is None else padding, (dilation_y, dilation_x),
        )  # fmt: skip
        return cls(weight, conv.bias, geometry, vector).train(conv.training)

    @property
    def executed_weights(self) -> int:
        """Weights that are multiplied for each output position: kept vectors times V, filling zeros included."""
        return self.values.numel()

    @property
    def is_plain(self) -> bool:
        """Whether the layer reads and writes planar images and clamps nothing."""
        g = self.geometry
        return not (g.layout_in or g.layout_out) and g.low == float("-inf") and g.high == float("inf")

    def dense_weight(self) -> Float[Tensor, "filters channels kh kw"]:
        """Return the weights with their zeros."""
        g = self.geometry
        shape = (g.out_channels, g.in_channels // g.groups, *g.kernel_size)
        return unpack(self.values, self.taps, self.starts, shape, g.groups)

    def with_geometry(self, **changes: int | float) -> VectorBlockConv2d:
        """Return this layer with other layouts or another clamp; the weights are shared.

        Args:
            **changes: Fields of `Geometry`: `layout_in`, `layout_out`, `low`, `high`.
        """
        unknown = set(changes) - {"layout_in", "layout_out", "low", "high"}
        if unknown:
            raise UsageError("layer", expected="changes of layouts or limits", found=", ".join(sorted(unknown)))
        twin = VectorBlockConv2d.__new__(VectorBlockConv2d)
        nn.Module.__init__(twin)
        twin.geometry, twin.vector = dataclasses.replace(self.geometry, **changes), self.vector  # type: ignore[arg-type]
        twin._arguments = arguments(twin.geometry)  # noqa: SLF001
        twin.values = self.values
        twin.register_buffer("taps", self.taps)
        twin.register_buffer("starts", self.starts)
        twin.register_parameter("bias", self.bias)  # type: ignore[arg-type]
        return twin.train(self.training)

    def forward(self, images: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return clamp(conv(images) + bias + residual).

        Args:
            images: In the geometry's layout.
            residual: Of the output's shape and layout, or None.
        """
        operator = torch.ops.hetcompress.vector_block_conv2d.default
        result: Tensor = operator(images, self.values, self.taps, self.starts, self.bias, residual, *self._arguments)
        return result

    def extra_repr(self) -> str:
        """Return the geometry, V and the number of kept vectors."""
        return f"{self.geometry}, vector={self.vector}, vectors={len(self.values)}"


def _padding(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return the padding at the top, left, bottom and right."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        rows, columns = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        return (rows // 2, columns // 2, rows - rows // 2, columns - columns // 2)
    top, left = int(conv.padding[0]), int(conv.padding[1])
    return (top, left, top, left)

"""crop: all kernels fit one smaller box, or some input channels are read by no kernel.

``conv(x, W) = conv(x[alive], W[:, alive, box])`` with the padding shifted by the position of the box.
"""

from __future__ import annotations

from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.pieces import Box, Geometry, Piece, bounding_box, surrounded
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Branch, Pad

__all__ = ["Crop", "cropped"]


def cropped(piece: Piece) -> Branch:
    """Return one convolution of the smallest box over the channels that are read."""
    return piece.branch(piece.alive, bounding_box(piece.taps.any(0)), bias=True)


@LOWERINGS.register("crop")
class Crop(Lowering):
    """One smaller convolution."""

    name = "crop"

    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether the box is smaller than the kernel or a channel is dead."""
        taps = layer.kernel_shapes.flatten(0, 1).any(0)
        height, width = bounding_box(taps)[2:]
        dead = layer.groups == 1 and not bool(layer.mask().sum((0, 2, 3)).all())
        if (height, width) == layer.kernel_size and not dead:
            return Verdict(False, "its taps fill the kernel and all channels are read")
        return Verdict(True, f"one {height}x{width} convolution")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return the smaller convolution; conv groups stay as they are."""
        geometry = Geometry.of(layer)
        if layer.groups == 1:
            return surrounded(geometry, cropped(Piece.of(layer)))
        return surrounded(geometry, _grouped(layer, bounding_box(layer.kernel_shapes.flatten(0, 1).any(0))))


def _grouped(layer: HetConv2d, box: Box) -> nn.Module:
    inner = Geometry.of(layer).inner
    row, column, height, width = box
    weight = layer.masked_weight().detach()[:, :, row : row + height, column : column + width]
    bias = None if layer.bias is None else layer.bias.detach()
    piece = Piece(weight, weight != 0, bias, tuple(range(weight.shape[1])), layer.in_channels, inner)
    conv = piece.conv(weight, bias=True, stride=inner.stride, dilation=inner.dilation, groups=layer.groups)
    sides = inner.sides_of(box)
    return Branch(conv, None, Pad(sides) if any(sides) else None)

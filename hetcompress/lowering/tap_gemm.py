"""tap-gemm: the kept (channel, tap) pairs gathered from shifted images, and one 1x1 convolution over them.

Executes exactly the taps that any filter keeps, whatever their pattern; pays for it by writing every gathered pair to
memory.
"""

from __future__ import annotations

from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.pieces import Geometry, Piece, bounding_box, surrounded
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Pad, TapGather

__all__ = ["TapGemm", "tap_gemm"]


def tap_gemm(piece: Piece) -> nn.Module | None:
    """Return the gathered product; None if every tap of every channel is kept, or none is."""
    taps = piece.taps
    if bool(taps.all()) or not bool(taps.any()):
        return None
    geometry = piece.geometry
    used = taps.any(0).nonzero().tolist()
    pairs, columns, shifts = [], [], []
    for view, (row, column) in enumerate(used):
        shifts.append((row * geometry.dilation[0], column * geometry.dilation[1]))
        for channel in taps[:, row, column].nonzero().flatten().tolist():
            pairs.append(view * piece.in_channels + piece.channels[channel])
            columns.append((channel, row, column))
    channels, rows, places = (list(axis) for axis in zip(*columns, strict=True))
    weight = piece.weight[:, channels, rows, places][..., None, None]
    extent = tuple((k - 1) * d + 1 for k, d in zip(geometry.kernel_size, geometry.dilation, strict=True))
    return TapGather(
        piece.conv(weight, bias=True), pairs, shifts=shifts, pad=Pad(geometry.sides),
        kernel_extent=(extent[0], extent[1]), stride=geometry.stride,
    )  # fmt: skip


@LOWERINGS.register("tap-gemm")
class TapGemm(Lowering):
    """One product over the kept taps."""

    name = "tap-gemm"

    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether some tap of the used box is missing."""
        if layer.groups > 1:
            return Verdict(False, "the convolution has groups")
        piece = Piece.of(layer)
        taps = piece.taps
        if not bool(taps.any()):
            return Verdict(False, "the layer is empty")
        height, width = bounding_box(taps.any(0))[2:]
        kept = int(taps.sum())
        if kept == len(piece.alive) * height * width:
            return Verdict(False, "a smaller box holds exactly its taps")
        return Verdict(True, f"{kept} taps of {taps.numel()}")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return the product."""
        form = tap_gemm(Piece.of(layer))
        assert form is not None
        return surrounded(Geometry.of(layer), form)

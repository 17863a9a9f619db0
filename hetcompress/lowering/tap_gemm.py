"""tap-gemm: the kept (channel, tap) pairs gathered from shifted images, and one 1x1 convolution over them.

Executes exactly the taps that any filter of a set keeps, whatever their pattern; pays for it by writing every gathered
pair to memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.pieces import Geometry, Piece, bounding_box, surrounded
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Pad, TapGather

__all__ = ["TapGemm", "tap_gemm"]


def tap_gemm(pieces: Sequence[Piece]) -> nn.Module:
    """Return the gathered products of sets of filters, at least one of which has a tap; empty sets are constants."""
    geometry = pieces[0].geometry
    taps = torch.stack([piece.taps.any(0) for piece in pieces]).any(0)
    used: list[tuple[int, int]] = [(row, column) for row, column in taps.nonzero().tolist()]
    extent = [(k - 1) * d + 1 for k, d in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    return TapGather(
        [_set(piece, used) for piece in pieces],
        shifts=[(row * geometry.dilation[0], column * geometry.dilation[1]) for row, column in used],
        pad=Pad(geometry.sides),
        kernel_extent=(extent[0], extent[1]),
        stride=geometry.stride,
    )


def _set(piece: Piece, used: Sequence[tuple[int, int]]) -> tuple[list[int], nn.Conv2d]:
    """Return the pairs of one set of filters and the convolution over them."""
    pairs, places = [], []
    for view, (row, column) in enumerate(used):
        for channel in piece.taps[:, row, column].nonzero().flatten().tolist():
            pairs.append(view * piece.in_channels + piece.channels[channel])
            places.append((channel, row, column))
    if not places:  # any pair does for a filter that is constant: its weight there is zero
        pairs, places = [piece.channels[0]], [(0, *used[0])]
    channels, rows, columns = (list(axis) for axis in zip(*places, strict=True))
    return pairs, piece.conv(piece.weight[:, channels, rows, columns][..., None, None], bias=True)


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
        return surrounded(Geometry.of(layer), tap_gemm([Piece.of(layer)]))

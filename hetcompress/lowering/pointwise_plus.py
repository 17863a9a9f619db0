"""pointwise-plus: one 1x1 over the channels that have a single tap, one larger convolution over those that have more.

``conv(x, W) = conv(x[one], W[:, one, tap]) + conv(x[more], W[:, more, box])``.
"""

from __future__ import annotations

import torch
from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.pieces import Geometry, Piece, bounding_box, surrounded
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Sum

__all__ = ["PointwisePlus", "pointwise_plus", "split_channels"]


def split_channels(piece: Piece) -> tuple[int, list[int], list[int]]:
    """Return the commonest single tap, the channels that have that tap alone, and the channels that have others."""
    taps = piece.taps.flatten(1)
    counts = taps.sum(1)
    single = taps[counts == 1]
    tap = int(single.sum(0).argmax()) if len(single) else 0
    only = (counts == 1) & taps[:, tap]
    more = (counts > 0) & ~only
    return tap, only.nonzero().flatten().tolist(), more.nonzero().flatten().tolist()


def pointwise_plus(piece: Piece) -> nn.Module | None:
    """Return the sum of both convolutions; None if either would be empty."""
    tap, only, more = split_channels(piece)
    if not only or not more:
        return None
    width = piece.geometry.kernel_size[1]
    box = bounding_box(piece.taps[torch.tensor(more)].any(0))
    return Sum([piece.branch(only, (tap // width, tap % width, 1, 1), bias=True), piece.branch(more, box, bias=False)])


@LOWERINGS.register("pointwise-plus")
class PointwisePlus(Lowering):
    """A 1x1 and a larger convolution, added."""

    name = "pointwise-plus"

    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether there are channels of both kinds."""
        if layer.groups > 1:
            return Verdict(False, "the convolution has groups")
        _, only, more = split_channels(Piece.of(layer))
        if not only or not more:
            return Verdict(False, f"{len(only)} channels have one tap alone, {len(more)} have more; it takes both")
        return Verdict(True, f"1x1 over {len(only)} channels, more over {len(more)}")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return the sum."""
        form = pointwise_plus(Piece.of(layer))
        assert form is not None
        return surrounded(Geometry.of(layer), form)

"""shape-sum: one small convolution for each shape, over the channels that have it, added up.

``conv(x, W) = sum over boxes B of conv(x[c in B], W[:, c in B, box B])``, where a channel belongs to the smallest box
around the taps that any filter keeps of it.  Boxes are merged, cheapest first, until few are left.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence

from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.pieces import Box, Geometry, Piece, bounding_boxes, surrounded
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Sum

__all__ = ["ShapeSum", "shape_sum"]

MOST_BRANCHES = 6
"""More small convolutions cost more in overhead than their MACs save."""


def boxes_of(piece: Piece) -> dict[Box, list[int]]:
    """Return the channels of each box, at most `MOST_BRANCHES` boxes."""
    boxes: dict[Box, list[int]] = {}
    of_channel = bounding_boxes(piece.taps)
    for channel in piece.alive:
        boxes.setdefault(of_channel[channel], []).append(channel)
    waiting = [_merger(boxes, a, b) for a, b in itertools.combinations(sorted(boxes), 2)]
    heapq.heapify(waiting)
    while len(boxes) > MOST_BRANCHES:
        merger = heapq.heappop(waiting)
        first, second = merger[1]
        if not {first, second} <= boxes.keys() or merger != _merger(boxes, first, second):
            continue  # either has been merged meanwhile
        channels = boxes.pop(first) + boxes.pop(second)
        union = _union(first, second)
        boxes[union] = sorted(boxes.get(union, []) + channels)
        for box in boxes.keys() - {union}:
            heapq.heappush(waiting, _merger(boxes, *sorted((box, union))))
    return boxes


def _union(a: Box, b: Box) -> Box:
    top, left = min(a[0], b[0]), min(a[1], b[1])
    bottom, right = max(a[0] + a[2], b[0] + b[2]), max(a[1] + a[3], b[1] + b[3])
    return top, left, bottom - top, right - left


def _merger(boxes: Mapping[Box, Sequence[int]], a: Box, b: Box) -> tuple[int, tuple[Box, Box]]:
    """Return the taps that merging two boxes adds, and the two."""
    union = _union(a, b)
    more = sum(len(boxes[box]) * (union[2] * union[3] - box[2] * box[3]) for box in (a, b))
    return more, (a, b)


def shape_sum(piece: Piece) -> nn.Module | None:
    """Return the sum over boxes; None if there is only one."""
    boxes = boxes_of(piece)
    if len(boxes) < 2:
        return None
    return Sum([piece.branch(channels, box, bias=i == 0) for i, (box, channels) in enumerate(boxes.items())])


@LOWERINGS.register("shape-sum")
class ShapeSum(Lowering):
    """A sum of small convolutions."""

    name = "shape-sum"

    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether channels differ in their boxes."""
        if layer.groups > 1:
            return Verdict(False, "the convolution has groups")
        boxes = boxes_of(Piece.of(layer))
        if len(boxes) < 2:
            return Verdict(False, "all channels have the same box")
        return Verdict(True, f"{len(boxes)} convolutions")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return the sum."""
        form = shape_sum(Piece.of(layer))
        assert form is not None
        return surrounded(Geometry.of(layer), form)

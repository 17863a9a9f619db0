"""filter-split: filters with different masks are computed apart, or as the groups of one convolution.

Sets of filters whose masks agree are lowered each by the simple form with the fewest MACs, and put side by side.  Where
all sets have the same size and about as many channels with more than the shared tap (HetConv's comb), the whole is

    1x1 over all channels  +  one group convolution over each set's own channels, gathered.
"""

from __future__ import annotations

import torch
from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.crop import cropped
from hetcompress.lowering.pieces import (
    Box,
    Geometry,
    Piece,
    box_rows,
    conv_weights,
    pieces_of,
    split_padding,
    surrounded,
)
from hetcompress.lowering.pointwise_plus import pointwise_plus
from hetcompress.lowering.shape_sum import MOST_BRANCHES, shape_sum
from hetcompress.lowering.tap_gemm import tap_gemm
from hetcompress.nn import BLOCK, HetConv2d
from hetcompress.nn.lowered import Branch, Concat, Pad, Sum

__all__ = ["FilterSplit"]

MOST_SETS = 64
MOST_CONVOLUTIONS = 32
"""More small convolutions are not worth timing: the narrow ones cost more in overhead than their MACs save."""
GATHER_SHARE = 0.9
"""Gathering taps must save a tenth of the MACs, since it writes them to memory."""
GROUP_SHARE = 1.25
"""One group convolution may have a quarter more MACs (the repeated centre taps) than many small ones."""


def filter_sets(layer: HetConv2d) -> list[list[int]]:
    """Return the filters of each distinct mask, within each conv group."""
    masks = [shapes.numpy(force=True).tobytes() for shapes in layer.kernel_shapes]  # of each group of filters
    size = layer.out_channels // layer.groups
    sets: dict[tuple[int, bytes], list[int]] = {}
    for number, group in enumerate(layer.channel_groups.out_index().tolist()):
        sets.setdefault((number // size, masks[group]), []).append(number)
    return list(sets.values())


def is_crumbled(layer: HetConv2d) -> bool:
    """Say whether the sets of filters would take more small convolutions than pay.

    Sets that need two each, as HetConv's, do not: they can be the groups of one.
    """
    shapes = torch.unique(layer.kernel_shapes, dim=0)
    boxes = box_rows(shapes.flatten(0, 1)).reshape(len(shapes), -1, 4)
    alive = shapes.flatten(2).any(2)
    counts = [len(row[there].unique(dim=0)) for row, there in zip(boxes, alive, strict=True)]
    return max(counts) > 2 and sum(min(count, MOST_BRANCHES) for count in counts) > MOST_CONVOLUTIONS


def simplest_best(piece: Piece) -> nn.Module:
    """Return the simple form of a piece with the fewest MACs, the simplest of equals."""
    forms = [cropped(piece), pointwise_plus(piece), shape_sum(piece)]
    return min((form for form in forms if form is not None), key=conv_weights)


def grouped(layer: HetConv2d, sets: list[list[int]], pieces: list[Piece]) -> nn.Module | None:
    """Return a 1x1 and a group convolution, added, that compute the filters set by set; None if sets are not alike."""
    counts = [piece.taps.flatten(1).sum(1) for piece in pieces]
    more = _evened([(count > 1).nonzero().flatten().tolist() for count in counts], pieces)
    if layer.groups > 1 or len({len(members) for members in sets}) > 1 or not more[0]:
        return None
    singles = torch.stack(
        [piece.taps.flatten(1)[count == 1].sum(0) for piece, count in zip(pieces, counts, strict=True)]
    )
    tap = int(singles.sum(0).argmax())
    if bool(singles.sum(0).sum() - singles[:, tap].sum()):
        return None  # a channel has another tap alone
    whole = Piece.of(layer, [number for members in sets for number in members])
    height, width = whole.geometry.kernel_size
    row, column = tap // width, tap % width
    alive = whole.taps[:, row, column].nonzero().flatten().tolist() or [0]  # with weights of 0, to carry the bias
    rest = torch.cat([piece.weight[:, channels] for piece, channels in zip(pieces, more, strict=True)])
    rest = rest.clone()
    rest[:, :, row, column] = 0  # the 1x1 carries it
    return Sum(
        [
            whole.branch(alive, (row, column, 1, 1), bias=True),
            _group_branch(whole, pieces, more, rest, (0, 0, height, width)),
        ]
    )


def _evened(more: list[list[int]], pieces: list[Piece]) -> list[list[int]]:
    """Return sets of channels of one size: the smaller ones get others of their piece, whose weights there are zero."""
    most = max(len(channels) for channels in more)
    most = -(-most // BLOCK) * BLOCK if most > BLOCK else most
    most = min(most, *(len(piece.channels) for piece in pieces))
    return [
        channels + sorted(set(range(len(piece.channels))) - set(channels))[: most - len(channels)]
        for channels, piece in zip(more, pieces, strict=True)
    ]


def _group_branch(whole: Piece, pieces: list[Piece], more: list[list[int]], weight: torch.Tensor, box: Box) -> Branch:
    sides = whole.geometry.sides_of(box)
    both, rest = split_padding(sides)
    conv = whole.conv(
        weight, bias=False, stride=whole.geometry.stride, padding=both, dilation=whole.geometry.dilation,
        groups=len(pieces),
    )  # fmt: skip
    channels = [piece.channels[c] for piece, chosen in zip(pieces, more, strict=True) for c in chosen]
    everything = channels == list(range(whole.in_channels))
    return Branch(conv, None if everything else channels, Pad(rest) if any(rest) else None)


@LOWERINGS.register("filter-split")
class FilterSplit(Lowering):
    """Sets of filters, each in its own form."""

    name = "filter-split"

    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether there are several sets, and not too many."""
        sets = filter_sets(layer)
        if len(sets) < 2:
            return Verdict(False, "all filters have the same mask")
        if len(sets) > MOST_SETS:
            return Verdict(False, f"{len(sets)} sets of filters have different masks; more than {MOST_SETS} do not pay")
        return Verdict(True, f"{len(sets)} sets of filters")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return the sets side by side, as products over gathered taps, or as one group convolution."""
        sets = filter_sets(layer)
        pieces = pieces_of(layer, sets)
        places = torch.tensor([number for members in sets for number in members])
        order: list[int] = places.argsort().tolist()
        in_order = order == sorted(order)
        apart: nn.Module = Concat([simplest_best(piece) for piece in pieces])
        if any(bool(piece.taps.any()) for piece in pieces):
            gathered = tap_gemm(pieces)
            apart = gathered if conv_weights(gathered) <= GATHER_SHARE * conv_weights(apart) else apart
        together = grouped(layer, sets, pieces)
        if together is not None and conv_weights(together) <= GROUP_SHARE * conv_weights(apart):
            apart = together
        return surrounded(Geometry.of(layer), apart if in_order else Concat([apart], order))

"""Channel order: a gather or a reordering between two layers is done to their weights instead.

Forms read the channels of one shape at a time, and put filters of one mask side by side.  With P the permutation of the
channels between a convolution A and the only one that reads it, B,

    B(f(A(x))) = B P^-1 (f(P A(x)))

for every f that treats each channel by itself.  P sorts by the set of filters of A first, so that A's sets come out
side by side, and then by the shape in which B reads a channel.  What stands between may also add up several A, which
all take the same order, or put them side by side, where each keeps to its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hetcompress.flow import Flow, Step, spread_
from hetcompress.lowering.filter_split import MOST_SETS, filter_sets, is_crumbled
from hetcompress.lowering.pieces import Piece, pieces_of
from hetcompress.lowering.pointwise_plus import split_channels
from hetcompress.lowering.rewiring import rewire_
from hetcompress.lowering.shape_sum import boxes_of
from hetcompress.nn import HetConv2d

__all__ = ["sort_channels_"]

Key = tuple[int, ...]


@torch.no_grad()
def sort_channels_(model: nn.Module, flow: Flow) -> None:
    """Put the channels between two pruned layers into the order in which their forms want them.

    Args:
        model: In eval mode; changed in place.
        flow: Its steps.
    """
    chosen = [torch.arange(size) for size in flow.channels]
    labels = flow.labels()
    for values in _families(flow):
        reader, makers = _private(flow, values)
        if reader is not None:
            order = _order(model, reader, makers, labels)
            if order is not None and _consistent(flow, values, order, labels):
                for value in values:
                    chosen[value] = _sorted(labels[value], order)
    rewire_(model, flow, chosen)


def _families(flow: Flow) -> list[list[int]]:
    """Return values that are tied, by each other or through others."""
    family = [torch.tensor([value]) for value in range(len(flow.shapes))]
    ties = [lanes for step in flow.steps for lanes in step.ties(flow.channels)]
    spread_(family, ([(value, slice(0, 1)) for value, _ in lanes] for lanes in ties), torch.minimum)
    members: dict[int, list[int]] = {}
    for value, number in enumerate(family):
        members.setdefault(int(number), []).append(value)
    return list(members.values())


def _private(flow: Flow, values: list[int]) -> tuple[Step | None, list[Step]]:
    """Return the only step that reads tied values, and all that make them, if all of these are convolutions."""
    apart = [step for step in flow.steps if step.kind in ("conv", "other")]
    readers = [step for step in apart if set(step.reads) & set(values)]
    makers = [step for step in apart if step.makes in values]
    if len(readers) != 1 or any(step.kind == "other" for step in (*readers, *makers)):
        return None, []
    return readers[0], makers


def _order(model: nn.Module, reader: Step, makers: list[Step], labels: Sequence[Tensor]) -> list[int] | None:
    """Return the labels of the channels that a convolution reads, sorted; None where a channel stands there twice."""
    who: dict[int, Key] = {}
    places: dict[int, Key] = {}
    for number, step in enumerate(makers):
        assert step.makes is not None
        for label, place in zip(labels[step.makes].tolist(), _places(model.get_submodule(step.module)), strict=True):
            who[label], places[label] = (*who.get(label, ()), number), (*places.get(label, ()), place)
    read = labels[reader.reads[0]].tolist()
    if len(set(read)) < len(read):
        return None
    wanted = _wishes(model.get_submodule(reader.module), len(read))
    # channels of one maker, or of the same ones added up, stay together where the first of them stands
    first: dict[Key, int] = {}
    keys: dict[int, Key] = {}
    for position, label in enumerate(read):
        keys[label] = (first.setdefault(who[label], position), *places[label], *wanted[position], position)
    return sorted(read, key=lambda label: keys[label])


def _places(conv: nn.Module) -> list[int]:
    """Return the number of the set of filters that each filter belongs to."""
    assert isinstance(conv, nn.Conv2d)
    places = [0] * conv.out_channels
    if isinstance(conv, HetConv2d):
        for number, members in enumerate(filter_sets(conv)):
            for filter_ in members:
                places[filter_] = number
    return places


def _wishes(conv: nn.Module, channels: int) -> list[Key]:
    """Return for each input channel the place of its shape, in each set of filters."""
    if not isinstance(conv, HetConv2d) or len(sets := filter_sets(conv)) > MOST_SETS or is_crumbled(conv):
        return [()] * channels
    return list(zip(*(_shape_places(piece) for piece in pieces_of(conv, sets)), strict=True))


def _shape_places(piece: Piece) -> list[int]:
    """Number the channels with several taps by their box, then those with the commonest tap alone, then the unread."""
    tap, only, _ = split_channels(piece)
    width = piece.geometry.kernel_size[1]
    pointwise = (tap // width, tap % width, 1, 1)
    boxes = boxes_of(piece)
    places = [len(boxes) + 1] * len(piece.channels)
    for number, (box, channels) in enumerate(boxes.items()):
        for channel in channels:
            places[channel] = len(boxes) if only and box == pointwise else number
    return places


def _sorted(labels: Int[Tensor, " channels"], order: list[int]) -> Int[Tensor, " channels"]:
    rank = {label: place for place, label in enumerate(order)}
    return torch.tensor([rank[label] for label in labels.tolist()]).argsort()


def _consistent(flow: Flow, values: list[int], order: list[int], labels: Sequence[Tensor]) -> bool:
    """Say whether sorting all values by one order leaves tied channels where they face each other."""
    if any(
        not set(labels[value].tolist()) <= set(order) or len(set(labels[value].tolist())) < len(labels[value])
        for value in values
    ):
        return False
    new = {value: labels[value][_sorted(labels[value], order)] for value in values}
    ties = [lanes for step in flow.steps for lanes in step.ties(flow.channels) if lanes[0][0] in new]
    return all(torch.equal(new[a][of_a], new[b][of_b]) for (a, of_a), *rest in ties for b, of_b in rest)

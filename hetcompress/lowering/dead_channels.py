"""Dead channels: what no later step reads is not computed.

A channel of a value is alive if an unknown step reads it, if a living filter has a weight for it, or if a living
channel was made of it.  So liveness goes through the steps from the last to the first.

Values that are tied, as all addends of a sum and the sum itself, lose a channel together or not at all: a channel of a
residual stream goes only if nothing reads it anywhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from hetcompress.flow import Flow, spread_
from hetcompress.lowering.pieces import aligned
from hetcompress.lowering.rewiring import kernels_of, rewire_
from hetcompress.nn import BLOCK, HetConv2d

__all__ = ["remove_dead_channels_"]


def remove_dead_channels_(model: nn.Module, flow: Flow) -> None:
    """Remove the channels that nothing reads; the function stays the same.

    Args:
        model: In eval mode; changed in place.
        flow: Its steps; their values hold fewer channels afterwards.
    """
    rewire_(model, flow, [kept.nonzero().flatten() for kept in _kept(model, flow)])


def _live(model: nn.Module, flow: Flow) -> list[Bool[Tensor, " _"]]:
    live = [torch.zeros(size, dtype=torch.bool) for size in flow.channels]
    for step in reversed(flow.steps):
        if step.kind == "conv" and step.makes is not None:
            conv = model.get_submodule(step.module)
            assert isinstance(conv, nn.Conv2d)
            live[step.reads[0]] |= (kernels_of(conv)[live[step.makes]] != 0).any((0, 2, 3))
        elif step.kind == "other":
            for value in step.reads:
                live[value][:] = True
        for *read, (made, part) in step.ties(flow.channels):
            for value, of_value in read:
                live[value][of_value] |= live[made][part]
    return live


def _kept(model: nn.Module, flow: Flow) -> list[Bool[Tensor, " _"]]:
    """Return what stays: what is alive, what is tied to it, what unknown steps make, and what evens groups out."""
    kept = _live(model, flow)
    for step in flow.steps:
        if step.kind == "other" and step.makes is not None:
            kept[step.makes][:] = True
    ties = [lanes for step in flow.steps for lanes in step.ties(flow.channels)]
    before = -1
    while before != (before := sum(int(mask.sum()) for mask in kept)):
        for step in flow.steps:
            if step.kind == "conv" and step.makes is not None:
                kept[step.makes][:] = _evened(model.get_submodule(step.module), kept[step.makes])
        spread_(kept, ties, torch.logical_or)
    return kept


def _evened(conv: nn.Module, kept: Bool[Tensor, " filters"]) -> Bool[Tensor, " filters"]:
    """Return the filters that stay of a convolution: some at least, a number that runtimes like.

    Of several channel groups each that stays keeps as many, in whole blocks: group convolutions and kernels for blocks
    of filters take no others.
    """
    kept = kept.clone()
    kept[0] |= not kept.any()
    if not isinstance(conv, HetConv2d) or conv.channel_groups.out_groups == 1:
        kept[aligned(kept.nonzero().flatten().tolist(), len(kept))] = True
        return kept
    index = conv.channel_groups.out_index()
    groups = [index == group for group in range(conv.channel_groups.out_groups)]
    most = max(int(kept[group].sum()) for group in groups)
    size = -(-most // BLOCK) * BLOCK
    for group in groups:
        if kept[group].any():
            spare = (group & ~kept).nonzero().flatten()
            kept[spare[: size - int(kept[group].sum())]] = True
    return kept

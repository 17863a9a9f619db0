"""The search for a price at which shapes meet a budget, and what fills the gap that coarse groups leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hetcompress.budgets import Budget
from hetcompress.kept_costs import group_costs, kept_cost
from hetcompress.nn import LearnableHetConv2d

__all__ = ["BISECTIONS", "TOLERANCE", "Layers", "Masks", "in_blocks", "nearest", "shapes_at", "smallest_shapes"]

TOLERANCE = 0.01
"""How far, relatively, the kept cost may stay from what was asked."""

CLOSE = 0.999
"""A kept cost above this share of the budget needs no further search."""

CLOSE_IN_BLOCKS = 0.99
"""The same where channels decide in blocks: a block is split only if the target would be missed."""

BISECTIONS = 60
FILL_RUNGS = 12

Layers = Mapping[str, LearnableHetConv2d]
Masks = dict[str, Tensor]


def shapes_at(layer: LearnableHetConv2d, logits: Tensor, price: float, channel: float) -> Tensor:
    """Return the masks of a layer that are worth most at a price; see `ShapeFamily.priced`."""
    size = (layer.kernel_size[0], layer.kernel_size[1])
    return layer.family.masks(layer.family.priced(logits, price, size, channel), size)


def nearest(
    layers: Layers,
    at: Callable[[float], Masks],
    low: float,
    high: float,
    budget: Budget,
    *,
    smallest: Masks | None,
    bisections: int = BISECTIONS,
) -> Masks:
    """Return the masks between `at(low)`, which keeps most, and `at(high)` that come nearest to the budget.

    Args:
        layers: The learnable layers.
        at: Returns masks that keep less at higher prices.
        low: Lowest price.
        high: Highest price.
        budget: What may be kept.
        smallest: See `smallest_shapes`; None leaves gaps that coarse groups make.
        bisections: Of the price.
    """
    blocks = in_blocks(layers)
    close = (CLOSE_IN_BLOCKS if blocks else CLOSE) * budget.kept
    start, most, least = low, at(low), at(high)
    if kept_cost(layers, most, budget) <= budget.kept:
        return most
    for _ in range(bisections):
        middle = (low + high) / 2
        masks = at(middle)
        kept = kept_cost(layers, masks, budget)
        low, most = (middle, masks) if kept > budget.kept else (low, most)
        high, least = (high, least) if kept > budget.kept else (middle, masks)
        if close <= kept <= budget.kept:
            break
    # Groups tied at the final price are taken one by one, and coarse groups leave a gap that only those fill which
    # would come next at lower prices.  Blocks stay whole as long as the target can be met with them, and if single
    # groups are too coarse as well, one too many is as near as one too few.
    over = dataclasses.replace(budget, kept=(1 + CLOSE * TOLERANCE) * budget.kept)
    ways = [(budget, False), (over, False)]
    for allowed, whole in [(budget, True), (over, True), *ways] if blocks else ways:
        close = close if allowed is budget else (1 - TOLERANCE) * budget.kept
        for rung in range(FILL_RUNGS + 1 if smallest is not None else 1):
            if kept_cost(layers, least, budget) >= close:
                break
            masks = at(low - (low - start) * (rung / FILL_RUNGS) ** 2) if rung else most
            least = _filled(layers, least, masks, allowed, close, whole=whole)
        if smallest is not None and not whole and kept_cost(layers, least, budget) < close:
            masks = {name: torch.maximum(mask, smallest[name]) for name, mask in least.items()}
            least = _filled(layers, least, masks, allowed, close, whole=whole)
    return least


def smallest_shapes(layers: Layers, logits: Mapping[str, Tensor]) -> Masks:
    """Return masks in which each group has its smallest shape besides the empty one, where its family has one."""
    price = {name: 1 + 2 * float(value.abs().max()) if value.numel() else 1.0 for name, value in logits.items()}
    # who pays for taps and is paid for being there has few
    return {name: shapes_at(layer, logits[name], price[name], -2.0) for name, layer in layers.items()}


def in_blocks(layers: Layers) -> bool:
    """Say whether channels of any layer stay or go in blocks."""
    return any(layer.family.block > 1 for layer in layers.values())


def _filled(layers: Layers, least: Masks, most: Masks, budget: Budget, close: float, *, whole: bool) -> Masks:
    """Move groups from their shape in `least` to the larger one in `most` while the budget allows it.

    Args:
        layers: The learnable layers.
        least: Masks within the budget.
        most: Masks that keep more.
        budget: What may be kept.
        close: A cost from which on there is no need for more.
        whole: Move all groups of a layer in which channels decide in blocks, or none.
    """
    chosen = dict(least)
    for name, layer in layers.items():
        extra = group_costs(layer, most[name], budget, name) - group_costs(layer, least[name], budget, name)
        groups = (extra > 0).nonzero()
        room = budget.kept - kept_cost(layers, chosen, budget)
        if room <= budget.kept - close:
            break
        if not (whole and layer.family.block > 1):
            groups = groups[_fitting(extra[extra > 0].tolist(), room)]
        while len(groups):
            index = (groups[:, 0], groups[:, 1])
            moved = chosen | {name: chosen[name].index_put(index, most[name][index])}
            if kept_cost(layers, moved, budget) <= budget.kept:
                chosen = moved
                break
            # groups revive filters elsewhere, whose cost shows only now
            groups = groups[: 0 if whole else len(groups) // 2]
    return chosen


def _fitting(costs: list[float], room: float) -> list[int]:
    """Return which costs, taken in order, fit the room; the least where none does, since filters may be dead."""
    chosen = []
    for number, cost in enumerate(costs):
        if cost <= room:
            chosen.append(number)
            room -= cost
    return chosen or [costs.index(cost) for cost in sorted(costs)[:1]]

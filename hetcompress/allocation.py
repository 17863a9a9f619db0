"""Allocation: which shapes are kept of each layer, under one budget for all of them.

The choice is a Lagrangian one.  With logits ``E_l`` and a cost ``c_l`` of each kept weight of layer l, every family
can say which shapes are best at a price (`ShapeFamily.priced`); the price ``lambda * c_l`` is searched by bisection
until the kept cost meets the budget.  One search over all layers together decides how many weights each of them keeps.

Filters that nothing reads any more cost nothing (`Budget.wiring`), so a channel that all its readers drop is saved on
both sides.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.budgets import Budget
from hetcompress.errors import NothingToDoError
from hetcompress.nn import HetConv2d, LearnableHetConv2d

__all__ = ["allocate", "allocate_evenly", "check_reachable", "kept_cost"]

TOLERANCE = 0.01
"""How far, relatively, the kept cost may stay from what was asked."""

CLOSE = 0.999
"""A kept cost above this share of the budget needs no further search."""

CLOSE_IN_BLOCKS = 0.99
"""The same where channels decide in blocks: a block is split only if the target would be missed."""

FLOOR = 0.3
"""No layer keeps less than this part of what layers keep on average: where a layer is almost gone, gradients and
magnitudes mislead, and the net breaks there (layer collapse: Tanaka et al., arXiv 2006.05467)."""

HALVINGS = 4
"""How often floors are halved, at most, so that blocks stay whole."""

BISECTIONS = 60
SHARE_BISECTIONS = 14
"""Of a share of weights, which needs no more digits than a layer has weights."""
FILL_RUNGS = 12

Layers = Mapping[str, LearnableHetConv2d]
Pruned = Mapping[str, LearnableHetConv2d | HetConv2d]
Masks = dict[str, Tensor]


def kept_cost(layers: Pruned, masks: Mapping[str, Tensor], budget: Budget) -> float:
    """Return what the masks keep, in the budget's unit, everything that is not converted included."""
    alive = None if budget.wiring is None else budget.wiring.alive(layers, masks)
    cost = budget.fixed + sum(
        float(_group_costs(layers[name], mask, budget, name, alive).sum()) for name, mask in masks.items()
    )
    if budget.wiring is not None and alive is not None:
        for name, full in budget.beside.items():
            if name in budget.wiring.makes:
                cost -= full * float((~alive[budget.wiring.makes[name]]).float().mean())
    return cost


def _group_costs(
    layer: LearnableHetConv2d | HetConv2d, mask: Tensor, budget: Budget, name: str, alive: Tensor | None = None
) -> Tensor:
    """Return what each channel group costs; None of `alive` counts all filters."""
    sizes = layer.channel_groups.sizes().to(device=mask.device, dtype=torch.float64)
    if budget.wiring is not None and alive is not None and name in budget.wiring.makes:
        filters = alive[budget.wiring.makes[name]].double()
        index = layer.channel_groups.out_index()
        rows = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, index, filters)
        rows /= torch.zeros_like(rows).index_add_(0, index, torch.ones_like(filters))
        sizes = sizes * rows.to(sizes)[:, None]
    return mask.sum((-2, -1), dtype=torch.float64) * sizes * budget.unit_costs[name]


def _kept_weights(layer: LearnableHetConv2d, mask: Tensor) -> float:
    return float((mask.sum((-2, -1)) * layer.channel_groups.sizes().to(mask.device)).sum())


def _shapes_at(layer: LearnableHetConv2d, logits: Tensor, price: float, channel: float) -> Tensor:
    size = (layer.kernel_size[0], layer.kernel_size[1])
    return layer.family.masks(layer.family.priced(logits, price, size, channel), size)


def _least(layer: LearnableHetConv2d, logits: Tensor, share: float, channel: float = 0.0, *, whole: bool) -> Tensor:
    """Return the shapes worth most of a layer that keeps this share of its weights, or one group or block more.

    Args:
        layer: The layer.
        logits: What each shape is worth.
        share: Of its weights.
        channel: See `Budget.channel_taps`.
        whole: Leave blocks of channels whole.
    """
    bound = 2.0 * float(logits.abs().max()) + 1
    low, high = -bound, bound
    enough = max(share * layer.weight.numel(), 1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if _kept_weights(layer, _shapes_at(layer, logits, middle, channel)) >= enough
            else (low, middle)
        )
    chosen, larger = _shapes_at(layer, logits, high, channel), _shapes_at(layer, logits, low, channel)
    if whole and layer.family.block > 1:  # what is tied is a block
        return larger
    # groups tied at this price are taken one by one
    for group in (larger.sum((-2, -1)) > chosen.sum((-2, -1))).nonzero().tolist():
        if _kept_weights(layer, chosen) >= enough:
            break
        chosen[tuple(group)] = larger[tuple(group)]
    return chosen


@torch.no_grad()
def allocate(
    layers: Layers, logits: Mapping[str, Float[Tensor, "o i n"]], budget: Budget, *, strict: bool = True
) -> Masks:
    """Return the kernel shapes of every channel group that are worth most within the budget.

    Args:
        layers: The learnable layers.
        logits: What each shape is worth, by layer; comparable between layers.
        budget: What may be kept.
        strict: Refuse a budget that cannot be met; otherwise come as near as the channel groups allow.

    Returns:
        Masks of 0 and 1 by layer, shape (out_groups, in_groups, kh, kw).  A kernel may be empty; a layer
        keeps at least `FLOOR` of the share that all keep.

    Raises:
        NothingToDoError: The budget cannot be met within 1 %; the message says what can.
    """
    costs = [cost for cost in budget.unit_costs.values() if cost > 0] or [1.0]
    scale = max(costs)
    floor = FLOOR * min(max(budget.share, 0.0), 1.0)
    channels = budget.channel_taps(layers)

    def at(price: float, floors: Masks, floor: float, whole: bool) -> Masks:
        masks = {}
        for name, layer in layers.items():
            masks[name] = _shapes_at(layer, logits[name], price * budget.unit_costs[name] / scale, channels[name])
            few = _kept_weights(layer, masks[name]) <= floor * layer.weight.numel()
            if layer.family.learnable and few:
                if name not in floors:
                    floors[name] = _least(layer, logits[name], floor, whole=whole)
                masks[name] = floors[name]
        return masks

    bound = 1.0 + 2 * max((float(value.abs().max()) for value in logits.values() if value.numel()), default=0.0)
    bound *= scale / min(costs)
    smallest = _smallest(layers, logits) if strict else None
    # floors of whole blocks may be more than the budget: they yield before blocks are split
    in_blocks = [(floor / 2**halvings, True) for halvings in range(HALVINGS)] if _in_blocks(layers) else []
    for lower, whole in [*in_blocks, (floor, False)]:
        fitting = functools.partial(at, floors={}, floor=lower, whole=whole)
        chosen = _nearest(layers, fitting, -bound, bound, budget, smallest=smallest)
        kept = kept_cost(layers, chosen, budget)
        if _reached(kept, budget) or (kept <= budget.kept and not strict):
            break
    if strict:
        least = {name: _least(layer, logits[name], 0, whole=False) for name, layer in layers.items()}
        _check_reached(layers, chosen, least, budget)
    return chosen


@torch.no_grad()
def allocate_evenly(layers: Layers, logits: Mapping[str, Float[Tensor, "o i n"]], budget: Budget) -> Masks:
    """Return the shapes worth most of each layer, where all layers keep about the same share; see `allocate`.

    Raises:
        NothingToDoError: The budget cannot be met within 1 %.
    """
    check_reachable(layers, budget)

    channels = budget.channel_taps(layers)

    def at(dropped: float) -> Masks:
        return {
            name: _least(layer, logits[name], 1 - dropped, channels[name], whole=True) for name, layer in layers.items()
        }

    smallest = _smallest(layers, logits)
    chosen = _nearest(layers, at, 0.0, 1.0, budget, smallest=smallest, bisections=SHARE_BISECTIONS)
    _check_reached(layers, chosen, chosen, budget)
    return chosen


def _nearest(
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
        smallest: See `_smallest`; None leaves gaps that coarse groups make.
        bisections: Of the price.
    """
    in_blocks = _in_blocks(layers)
    close = (CLOSE_IN_BLOCKS if in_blocks else CLOSE) * budget.kept
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
    for allowed, whole in [(budget, True), (over, True), *ways] if in_blocks else ways:
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


def _smallest(layers: Layers, logits: Mapping[str, Tensor]) -> Masks:
    """Return masks in which each group has its smallest shape besides the empty one, where its family has one."""
    price = {name: 1 + 2 * float(value.abs().max()) if value.numel() else 1.0 for name, value in logits.items()}
    # who pays for taps and is paid for being there has few
    return {name: _shapes_at(layer, logits[name], price[name], -2.0) for name, layer in layers.items()}


def _in_blocks(layers: Layers) -> bool:
    return any(layer.family.block > 1 for layer in layers.values())


def _reached(kept: float, budget: Budget) -> bool:
    return abs(kept - budget.kept) <= TOLERANCE * budget.kept


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
        extra = _group_costs(layer, most[name], budget, name) - _group_costs(layer, least[name], budget, name)
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


def _learnable(layers: Layers) -> bool:
    return all(layer.family.learnable for layer in layers.values())


def check_reachable(layers: Layers, budget: Budget) -> None:
    """Refuse a budget that a fixed pattern, or even the smallest shapes, miss: before anything is trained towards it.

    Raises:
        NothingToDoError: So it is; the message says what can be reached.
    """
    if budget.also is not None:
        check_reachable(layers, budget.also)
    if not _learnable(layers):
        pattern = {name: layer.group_masks() for name, layer in layers.items()}
        _check_reached(layers, pattern, pattern, budget, fix="leave the target out: this pattern is fixed")
        return
    least = allocate(
        layers, {name: layer.shape_logits.detach() for name, layer in layers.items()}, budget, strict=False
    )
    if kept_cost(layers, least, budget) > budget.kept:
        _check_reached(layers, least, least, budget)


def _check_reached(
    layers: Layers,
    chosen: Masks,
    least: Masks,
    budget: Budget,
    *,
    fix: str = "aim at the nearest, or convert with smaller channel groups (--group-out, --group-in) or more layers",
) -> None:
    kept = kept_cost(layers, chosen, budget)
    if _reached(kept, budget):
        return
    most = min(budget.total, budget.reference)  # nothing needs to cost more than the dense model
    ends = sorted(budget.value(cost) for cost in (kept_cost(layers, least, budget), most))
    units = "densities" if budget.unit == "density" else f"{budget.unit}s"
    raise NothingToDoError(
        f"target {budget} cannot be reached within 1 %",
        expected=f"{units} {ends[0]:.3g} to {ends[1]:.4g}, nearest {budget.value(kept):.4g}",
        found=str(budget),
        fix=fix,
    )

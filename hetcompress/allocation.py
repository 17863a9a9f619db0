"""Allocation: which shapes are kept of each layer, under one budget for all of them.

The choice is a Lagrangian one.  With logits ``E_l`` and a cost ``c_l`` of each kept weight of layer l, every family
can say which shapes are best at a price (`ShapeFamily.priced`); the price ``lambda * c_l`` is searched by bisection
until the kept cost meets the budget.  One search over all layers together decides how many weights each of them keeps.

Filters that nothing reads any more cost nothing (`Budget.wiring`), so a channel that all its readers drop is saved on
both sides.

Where a second budget holds as well (`Budget.also`), the price of a kept weight is a mixture of what it costs in either,
each in parts of what may be kept, and what counts is the budget that is used up more (`Budget.mixed`).  Where the
prices of one alone leave the other with room, they are the answer; otherwise the mixture is bisected to where both are
used alike: price and mixture are the two multipliers of the Lagrangian.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.budgets import Budget
from hetcompress.errors import NothingToDoError
from hetcompress.kept_costs import kept_cost
from hetcompress.nn import LearnableHetConv2d
from hetcompress.price_search import (
    BISECTIONS,
    TOLERANCE,
    Layers,
    Masks,
    in_blocks,
    nearest,
    shapes_at,
    smallest_shapes,
)

__all__ = ["allocate", "allocate_evenly", "check_reachable"]

FLOOR = 0.3
"""No layer keeps less than this part of what layers keep on average: where a layer is almost gone, gradients and
magnitudes mislead, and the net breaks there (layer collapse: Tanaka et al., arXiv 2006.05467)."""

HALVINGS = 4
"""How often floors are halved, at most, so that blocks stay whole."""

SHARE_BISECTIONS = 14
"""Of a share of weights, which needs no more digits than a layer has weights."""

MIXTURES, ROUGHLY, EVEN = 8, 4, 0.005
"""Of two budgets, how many mixtures are tried at most, strictly or not, and how evenly used is evenly enough."""


def _kept_weights(layer: LearnableHetConv2d, mask: Tensor) -> float:
    return float((mask.sum((-2, -1)) * layer.channel_groups.sizes().to(mask.device)).sum())


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
            if _kept_weights(layer, shapes_at(layer, logits, middle, channel)) >= enough
            else (low, middle)
        )
    chosen, larger = shapes_at(layer, logits, high, channel), shapes_at(layer, logits, low, channel)
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
        strict: Refuse a budget that cannot be met; otherwise come as near as the channel groups allow.  Of two budgets,
            less than may be kept is no miss.

    Returns:
        Masks of 0 and 1 by layer, shape (out_groups, in_groups, kh, kw).  A kernel may be empty; a layer
        keeps at least `FLOOR` of the share that all keep.

    Raises:
        NothingToDoError: The budget cannot be met within 1 %; the message says what can.
    """
    if budget.also is None:
        return _within(layers, logits, budget, strict=strict)

    def at(share: float) -> tuple[float, float, Masks]:
        mixed = budget.mixed(share)
        masks = _within(layers, logits, mixed, strict=strict)
        first, second = (kept_cost(layers, masks, part) / part.kept for part in mixed.parts)
        return first, second, masks

    found = [at(0.0)]
    if found[0][1] <= found[0][0]:  # at prices of its own, the first leaves the second room
        return found[0][2]
    found.append(at(1.0))
    if found[1][0] <= found[1][1]:
        return found[1][2]
    low, high = 0.0, 1.0
    while len(found) < 2 + (MIXTURES if strict else ROUGHLY) and abs(found[-1][0] - found[-1][1]) > EVEN:
        middle = (low + high) / 2
        found.append(at(middle))
        low, high = (middle, high) if found[-1][1] > found[-1][0] else (low, middle)
    return max(found, key=lambda one: min(one[:2]))[2]


def _within(layers: Layers, logits: Mapping[str, Tensor], budget: Budget, *, strict: bool) -> Masks:
    """Return the shapes that are worth most within one budget, or at one mixture of two; see `allocate`."""
    costs = [cost for cost in budget.unit_costs.values() if cost > 0] or [1.0]
    scale = max(costs)
    floor = FLOOR * min(max(budget.share, 0.0), 1.0)
    channels = budget.channel_taps(layers)

    def at(price: float, floors: Masks, floor: float, whole: bool) -> Masks:
        masks = {}
        for name, layer in layers.items():
            masks[name] = shapes_at(layer, logits[name], price * budget.unit_costs[name] / scale, channels[name])
            few = _kept_weights(layer, masks[name]) <= floor * layer.weight.numel()
            if layer.family.learnable and few:
                if name not in floors:
                    floors[name] = _least(layer, logits[name], floor, whole=whole)
                masks[name] = floors[name]
        return masks

    bound = 1.0 + 2 * max((float(value.abs().max()) for value in logits.values() if value.numel()), default=0.0)
    bound *= scale / min(costs)
    smallest = smallest_shapes(layers, logits) if strict else None
    # floors of whole blocks may be more than the budget: they yield before blocks are split
    yielding = [(floor / 2**halvings, True) for halvings in range(HALVINGS)] if in_blocks(layers) else []
    for lower, whole in [*yielding, (floor, False)]:
        fitting = functools.partial(at, floors={}, floor=lower, whole=whole)
        chosen = nearest(layers, fitting, -bound, bound, budget, smallest=smallest)
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
    budget = _as_one(budget)
    channels = budget.channel_taps(layers)

    def at(dropped: float) -> Masks:
        return {
            name: _least(layer, logits[name], 1 - dropped, channels[name], whole=True) for name, layer in layers.items()
        }

    smallest = smallest_shapes(layers, logits)
    chosen = nearest(layers, at, 0.0, 1.0, budget, smallest=smallest, bisections=SHARE_BISECTIONS)
    _check_reached(layers, chosen, chosen, budget)
    return chosen


def _as_one(budget: Budget) -> Budget:
    """Return what measures both of two budgets."""
    return budget if budget.also is None else budget.mixed(0.5)


def _reached(kept: float, budget: Budget) -> bool:
    # of two budgets one may have room
    return kept <= (1 + TOLERANCE) * budget.kept and bool(budget.parts or kept >= (1 - TOLERANCE) * budget.kept)


def check_reachable(layers: Layers, budget: Budget) -> None:
    """Refuse a budget that a fixed pattern, or even the smallest shapes, miss: before anything is trained towards it.

    Raises:
        NothingToDoError: So it is; the message says what can be reached.
    """
    if not all(layer.family.learnable for layer in layers.values()):
        pattern = {name: layer.group_masks() for name, layer in layers.items()}
        _check_reached(layers, pattern, pattern, _as_one(budget), fix="leave the target out: this pattern is fixed")
        return
    logits = {name: layer.shape_logits.detach() for name, layer in layers.items()}
    least, budget = allocate(layers, logits, budget, strict=False), _as_one(budget)
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
    if budget.parts:
        near = (f"{part.unit} {part.value(kept_cost(layers, chosen, part)):.4g}" for part in budget.parts)
        expected = f"nearest {' with '.join(near)}"
    else:
        most = min(budget.total, budget.reference)  # nothing needs to cost more than the dense model
        ends = sorted(budget.value(cost) for cost in (kept_cost(layers, least, budget), most))
        units = "densities" if budget.unit == "density" else f"{budget.unit}s"
        expected = f"{units} {ends[0]:.3g} to {ends[1]:.4g}, nearest {budget.value(kept):.4g}"
    raise NothingToDoError(
        f"target {budget} cannot be reached within 1 %", expected=expected, found=str(budget), fix=fix
    )

"""Prune: choose the kernel shapes under an exact budget, write real zeros, drop the logits.

The choice is a Lagrangian one.  With logits ``E_l`` and a cost ``c_l`` of each kept weight of layer l, every family
can say which shapes are best at a price (`ShapeFamily.priced`); the price ``lambda * c_l`` is searched by bisection
until the kept cost meets the budget.  One search over all layers together decides how many weights each of them keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.budgets import Budget
from hetcompress.errors import NothingToDoError
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.surgery import copy_with, named_modules_of

__all__ = ["allocate", "allocate_evenly", "check_reachable", "kept_cost", "magnitudes", "prune", "pruned_skeleton"]

TOLERANCE = 0.01
"""How far, relatively, the kept cost may stay from what was asked."""

CLOSE = 0.999
"""A kept cost above this share of the budget needs no further search."""

CLOSE_IN_BLOCKS = 0.99
"""The same where channels decide in blocks: a block is split only if the target would be missed."""

FLOOR = 0.3
"""No layer keeps less than this part of what layers keep on average: where a layer is almost gone, gradients and
magnitudes mislead, and the net breaks there (layer collapse: Tanaka et al., arXiv 2006.05467)."""

BISECTIONS = 60
FILL_RUNGS = 12


Masks = dict[str, Tensor]


def kept_cost(layers: Mapping[str, LearnableHetConv2d], masks: Mapping[str, Tensor], budget: Budget) -> float:
    """Return what the masks keep, in the budget's unit, everything that is not converted included."""
    return budget.fixed + sum(_layer_cost(layers[name], mask, budget, name) for name, mask in masks.items())


def _group_costs(layer: LearnableHetConv2d, mask: Tensor, budget: Budget, name: str) -> Tensor:
    sizes = layer.channel_groups.sizes().to(device=mask.device, dtype=torch.float64)
    return mask.sum((-2, -1), dtype=torch.float64) * sizes * budget.unit_costs[name]


def _kept_weights(layer: LearnableHetConv2d, mask: Tensor) -> float:
    return float((mask.sum((-2, -1)) * layer.channel_groups.sizes().to(mask.device)).sum())


def _layer_cost(layer: LearnableHetConv2d, mask: Tensor, budget: Budget, name: str) -> float:
    return float(_group_costs(layer, mask, budget, name).sum())


def _shapes_at(layer: LearnableHetConv2d, logits: Tensor, price: float) -> Tensor:
    size = (layer.kernel_size[0], layer.kernel_size[1])
    return layer.family.masks(layer.family.priced(logits, price, size), size)


def _least(layer: LearnableHetConv2d, logits: Tensor, share: float) -> Tensor:
    """Return the shapes worth most of a layer that keeps no more than this share of its weights, but one group."""
    bound = 2.0 * float(logits.abs().max()) + 1
    low, high = -bound, bound
    enough = max(share * layer.weight.numel(), 1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _kept_weights(layer, _shapes_at(layer, logits, middle)) >= enough else (low, middle)
        )
    chosen, larger = _shapes_at(layer, logits, high), _shapes_at(layer, logits, low)
    # groups tied at this price are taken one by one
    for group in (larger.sum((-2, -1)) > chosen.sum((-2, -1))).nonzero().tolist():
        if _kept_weights(layer, chosen) >= enough:
            break
        chosen[tuple(group)] = larger[tuple(group)]
    return chosen


@torch.no_grad()
def allocate(
    layers: Mapping[str, LearnableHetConv2d],
    logits: Mapping[str, Float[Tensor, "o i n"]],
    budget: Budget,
    *,
    strict: bool = True,
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
    close = CLOSE if all(layer.family.block == 1 for layer in layers.values()) else CLOSE_IN_BLOCKS
    floor = FLOOR * min(max(budget.share, 0.0), 1.0)
    floors: Masks = {}

    def at(price: float) -> Masks:
        masks = {}
        for name, layer in layers.items():
            masks[name] = _shapes_at(layer, logits[name], price * budget.unit_costs[name] / scale)
            few = _kept_weights(layer, masks[name]) <= floor * layer.weight.numel()
            if layer.family.learnable and few:
                if name not in floors:
                    floors[name] = _least(layer, logits[name], floor)
                masks[name] = floors[name]
        return masks

    bound = 1.0 + 2 * max((float(value.abs().max()) for value in logits.values() if value.numel()), default=0.0)
    bound *= scale / min(costs)
    low, high = -bound, bound
    most, least = at(low), at(high)
    chosen = most
    for _ in range(BISECTIONS if kept_cost(layers, most, budget) > budget.kept else 0):
        middle = (low + high) / 2
        masks = at(middle)
        kept = kept_cost(layers, masks, budget)
        low, most = (middle, masks) if kept > budget.kept else (low, most)
        high, least = (high, least) if kept > budget.kept else (middle, masks)
        chosen = least
        if close * budget.kept <= kept <= budget.kept:
            break
    # Groups tied at the final price are taken one by one, and coarse groups leave a gap that only those fill which
    # would come next at lower prices.
    for rung in range(FILL_RUNGS + 1 if strict else 1):
        if kept_cost(layers, chosen, budget) >= close * budget.kept:
            break
        larger = most if rung == 0 else at(low - (low + bound) * (rung / FILL_RUNGS) ** 2)
        chosen = _filled(layers, chosen, larger, budget)
    if strict:
        _check_reached(layers, chosen, {name: _least(layer, logits[name], 0) for name, layer in layers.items()}, budget)
    return chosen


def _filled(layers: Mapping[str, LearnableHetConv2d], least: Masks, most: Masks, budget: Budget) -> Masks:
    """Move groups from their shape in `least` to the larger one in `most` while the budget allows it."""
    room = budget.kept - kept_cost(layers, least, budget)
    chosen = {name: mask.clone() for name, mask in least.items()}
    for name, layer in layers.items():
        extra = _group_costs(layer, most[name], budget, name) - _group_costs(layer, least[name], budget, name)
        for group in (extra > 0).nonzero().tolist():
            cost = float(extra[tuple(group)])
            if cost <= room:
                chosen[name][tuple(group)] = most[name][tuple(group)]
                room -= cost
    return chosen


def _learnable(layers: Mapping[str, LearnableHetConv2d]) -> bool:
    return all(layer.family.learnable for layer in layers.values())


def check_reachable(layers: Mapping[str, LearnableHetConv2d], budget: Budget) -> None:
    """Refuse a budget that a fixed pattern, or even the smallest shapes, miss: before anything is trained towards it.

    Raises:
        NothingToDoError: So it is; the message says what can be reached.
    """
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
    layers: Mapping[str, LearnableHetConv2d],
    chosen: Masks,
    least: Masks,
    budget: Budget,
    *,
    fix: str = "aim at the nearest, or convert with smaller channel groups (--group-out, --group-in) or more layers",
) -> None:
    kept = kept_cost(layers, chosen, budget)
    if abs(kept - budget.kept) <= TOLERANCE * budget.kept:
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


@torch.no_grad()
def magnitudes(layers: Mapping[str, LearnableHetConv2d]) -> dict[str, Float[Tensor, "o i kh kw"]]:
    """Return what each tap of each channel group is worth: its weights' mean square, in shares of the layer's total.

    So all layers are worth the same in total, however many weights they have (cf. LAMP, Lee et al., arXiv 2010.07611);
    the mean is 1 where all have equally many.
    """
    scores, sizes = {}, {name: layer.weight.numel() for name, layer in layers.items()}
    for name, layer in layers.items():
        squares = layer.tap_norms().square()
        relative = squares / squares.mean().clamp_min(torch.finfo(squares.dtype).tiny)
        scores[name] = relative * (sum(sizes.values()) / len(sizes) / sizes[name])
    return scores


def allocate_evenly(
    layers: Mapping[str, LearnableHetConv2d], logits: Mapping[str, Float[Tensor, "o i n"]], budget: Budget
) -> Masks:
    """Return the shapes worth most of each layer, where all layers keep the same share; see `allocate`.

    Raises:
        NothingToDoError: The budget cannot be met within 1 %.
    """
    check_reachable(layers, budget)
    chosen: Masks = {}
    for name, layer in layers.items():
        own = Budget.of_density({name: layer}, min(budget.share, 1.0))
        chosen |= allocate({name: layer}, {name: logits[name]}, own, strict=False)
    _check_reached(layers, chosen, chosen, budget)
    return chosen


def prune(
    model: nn.Module,
    budget: Budget,
    *,
    logits: Mapping[str, Tensor] | None = None,
    strict: bool = True,
    evenly: bool = False,
) -> nn.Module:
    """Return a copy of `model` whose shapes are fixed and whose kept cost meets the budget.

    Args:
        model: A converted model; it is left alone.
        budget: What may be kept.  A family that is not learnable keeps its pattern, which must meet the budget.
        logits: What shapes are worth; by default each layer's own logits.
        strict: See `allocate`.
        evenly: Keep the same share of every layer.

    Raises:
        NothingToDoError: The model has no learnable layers, or the budget cannot be met.
    """
    layers = named_modules_of(model, LearnableHetConv2d)
    if not layers:
        raise NothingToDoError(
            "nothing to prune", expected="a converted model", found="no learnable layer", fix="convert it first"
        )
    if not _learnable(layers):
        check_reachable(layers, budget)
        return copy_with(model, {name: layer.freeze() for name, layer in layers.items()})
    worths = logits or {name: layer.shape_logits.detach() for name, layer in layers.items()}
    masks = allocate_evenly(layers, worths, budget) if evenly else allocate(layers, worths, budget, strict=strict)
    pruned = {}
    for name, layer in layers.items():
        groups = layer.channel_groups
        pruned[name] = HetConv2d.from_conv2d(layer, masks[name] > 0, groups.group_out, groups.group_in)
    return copy_with(model, pruned)


def pruned_skeleton(model: nn.Module) -> nn.Module:
    """Return a copy with `HetConv2d` layers of full shapes, into which a pruned state dict can be loaded."""
    pruned = {}
    for name, layer in named_modules_of(model, LearnableHetConv2d).items():
        groups = layer.channel_groups
        everything = torch.ones_like(layer.group_masks(), dtype=torch.bool)
        pruned[name] = HetConv2d.from_conv2d(layer, everything, groups.group_out, groups.group_in)
    return copy_with(model, pruned)

"""What masks keep, in the unit of a budget; filters that nothing reads any more cost nothing (`Budget.wiring`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hetcompress.budgets import Budget
from hetcompress.nn import HetConv2d, LearnableHetConv2d

__all__ = ["deciding", "group_costs", "kept_cost"]

Pruned = Mapping[str, LearnableHetConv2d | HetConv2d]


def kept_cost(layers: Pruned, masks: Mapping[str, Tensor], budget: Budget) -> float:
    """Return what the masks keep, in the budget's unit, everything that is not converted included.

    Of two budgets in one (`Budget.parts`), it is the share that is used of the one that is used up more.
    """
    if budget.parts:
        return max(kept_cost(layers, masks, part) / part.kept for part in budget.parts)
    alive = None if budget.wiring is None else budget.wiring.alive(layers, masks)
    cost = budget.fixed + sum(
        float(group_costs(layers[name], mask, budget, name, alive).sum()) for name, mask in masks.items()
    )
    if budget.wiring is not None and alive is not None:
        for name, full in budget.beside.items():
            if name in budget.wiring.makes:
                cost -= full * float((~alive[budget.wiring.makes[name]]).float().mean())
    return cost


def deciding(layers: Mapping[str, HetConv2d], budget: Budget) -> Budget:
    """Return the budget itself, or of two that hold together the one that pruned layers use up more."""
    if budget.also is None:
        return budget
    masks = {name: layers[name].kernel_shapes for name in budget.unit_costs}
    first, second = budget.mixed(0.5).parts
    return max(first, second, key=lambda part: kept_cost(layers, masks, part) / part.kept)


def group_costs(
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

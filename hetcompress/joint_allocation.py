"""Allocation under two budgets that must both hold, as a net that has to be fast and small needs.

Where the shapes that are worth most within one budget are within the other as well, that is the answer.  Otherwise
both bind, and the price of a kept weight is a mixture of what it costs in either, each in parts of what may be kept:
``(1 - s) cost_1 / kept_1 + s cost_2 / kept_2 <= 1``.  The larger the share s, the less is kept of the second cost; by
bisection it comes to where both are met (the two multipliers of the Lagrangian are the price times 1 - s and s).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.allocation import TOLERANCE, Layers, Masks, allocate, kept_cost
from hetcompress.budgets import Budget
from hetcompress.errors import NothingToDoError

__all__ = ["allocate_jointly"]

HALVINGS, ROUGH_HALVINGS = 12, 6
"""Of the share; while shapes are learned, the choice is made anew every few steps and need not be as near."""


@torch.no_grad()
def allocate_jointly(
    layers: Layers, logits: Mapping[str, Float[Tensor, "o i n"]], budget: Budget, *, strict: bool = True
) -> Masks:
    """Return the kernel shapes that are worth most within a budget and the one that it names `also`.

    Args:
        layers: The learnable layers.
        logits: What each shape is worth, by layer; comparable between layers.
        budget: What may be kept.
        strict: Refuse budgets that cannot be met.

    Returns:
        Masks of 0 and 1 by layer, shape (out_groups, in_groups, kh, kw); see `hetcompress.allocation.allocate`.

    Raises:
        NothingToDoError: A budget cannot be met, or not together with the other, within 1 %.
    """
    first, second = dataclasses.replace(budget, also=None), budget.also
    if second is None:
        return allocate(layers, logits, first, strict=strict)

    def worst(masks: Masks) -> float:
        return max(kept_cost(layers, masks, one) / one.kept for one in (first, second))

    for one in (first, second):
        masks = allocate(layers, logits, one, strict=strict)
        if worst(masks) <= 1 + TOLERANCE:
            return masks
    nearest, low, high = masks, 0.0, 1.0
    for _ in range(HALVINGS if strict else ROUGH_HALVINGS):
        share = (low + high) / 2
        masks = allocate(layers, logits, first.mixed_with(second, share), strict=False)
        nearest = min(nearest, masks, key=worst)
        over = kept_cost(layers, masks, second) > second.kept
        low, high = (share, high) if over else (low, share)
    if strict and worst(nearest) > 1 + TOLERANCE:
        found = " and ".join(f"{one.unit} {one.value(kept_cost(layers, nearest, one)):.4g}" for one in (first, second))
        raise NothingToDoError(
            f"targets {budget} cannot be reached together within 1 %",
            expected=f"the nearest, {found}",
            found=str(budget),
            fix="aim at the nearest, or convert with smaller channel groups (--group-out, --group-in)",
        )
    return nearest

"""Prune: fix the kernel shapes that are worth most under an exact budget, write real zeros, drop the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.allocation import allocate, allocate_evenly, check_reachable
from hetcompress.budgets import Budget
from hetcompress.errors import NothingToDoError
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.surgery import copy_with, named_modules_of
from hetcompress.wiring import Wiring

__all__ = ["magnitudes", "prune", "prune_nearest", "pruned_skeleton", "worths"]


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


def worths(
    layers: Mapping[str, LearnableHetConv2d],
    scores: Mapping[str, Float[Tensor, "o i kh kw"]],
    wiring: Wiring | None = None,
) -> dict[str, Float[Tensor, "o i n"]]:
    """Return what the scores of taps make each shape worth, channels that several layers read ranked alike by all.

    Args:
        layers: The learnable layers.
        scores: Of each tap of each channel group; comparable between layers.
        wiring: Which layers share channels; None if that is not to count.
    """
    shared = scores if wiring is None else wiring.shared(layers, scores)
    return {name: layer.family.logits_of(shared[name]) for name, layer in layers.items()}


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
    if not all(layer.family.learnable for layer in layers.values()):
        check_reachable(layers, budget)
        return copy_with(model, {name: layer.freeze() for name, layer in layers.items()})
    worth = logits or {name: layer.shape_logits.detach() for name, layer in layers.items()}
    masks = allocate_evenly(layers, worth, budget) if evenly else allocate(layers, worth, budget, strict=strict)
    pruned = {}
    for name, layer in layers.items():
        groups = layer.channel_groups
        pruned[name] = HetConv2d.from_conv2d(layer, masks[name] > 0, groups.group_out, groups.group_in)
    return copy_with(model, pruned)


def prune_nearest(
    budget: Budget, say: Callable[[str], None], model: nn.Module, logits: Mapping[str, Tensor]
) -> nn.Module:
    """Prune to the budget, or, where the shapes that were learned are too coarse for it, to the nearest below.

    That is better than to lose a training that is as good as done.

    Args:
        budget: What may be kept.
        say: Told why a target is missed.
        model: A converted model; it is left alone.
        logits: What shapes are worth.
    """
    try:
        return prune(model, budget, logits=logits)
    except NothingToDoError as error:
        say(f"{error}; pruned to the nearest below")
        return prune(model, budget, logits=logits, strict=False)


def pruned_skeleton(model: nn.Module) -> nn.Module:
    """Return a copy with `HetConv2d` layers of full shapes, into which a pruned state dict can be loaded."""
    pruned = {}
    for name, layer in named_modules_of(model, LearnableHetConv2d).items():
        groups = layer.channel_groups
        everything = torch.ones_like(layer.group_masks(), dtype=torch.bool)
        pruned[name] = HetConv2d.from_conv2d(layer, everything, groups.group_out, groups.group_in)
    return copy_with(model, pruned)

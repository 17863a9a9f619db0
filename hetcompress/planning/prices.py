"""What a kept weight of each layer costs in time.

Each layer is pruned to a few densities by its family's own rule and the magnitudes of its weights, and its forms are
timed as for a plan.  The price is the slope of a line through

    our kernel's times alone, where it may be used: their differences hold none of the reorders that kernels spare each
        other side by side;
    else the times of the quickest form, and that of the dense one at density 1: a layer that stays dense has price 0.

What does not depend on the density, in the layers and between them, is left to the whole model's own timing.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.activity import counted
from hetcompress.allocation import allocate
from hetcompress.budgets import Budget
from hetcompress.lowering import forms_of, input_shapes
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.planning.measured import OURS, Measured
from hetcompress.planning.whole import PlanSettings
from hetcompress.pruning import magnitudes
from hetcompress.surgery import named_modules_of

__all__ = ["at_density", "layer_prices", "price_of"]

DENSITIES = (0.5, 0.25, 0.1)
ODD = 1.25
"""Shapes that keep less and take so many times as long are measured once more."""


def at_density(layer: LearnableHetConv2d, density: float) -> HetConv2d:
    """Return a layer pruned by magnitude to about this share of its weights."""
    layers = {"": layer}
    logits = {"": layer.family.logits_of(magnitudes(layers)[""])}
    shapes = allocate(layers, logits, Budget.of_density(layers, density), strict=False)[""] > 0
    groups = layer.channel_groups
    return HetConv2d.from_conv2d(layer, shapes, groups.group_out, groups.group_in)


def price_of(layer: LearnableHetConv2d, input_shape: tuple[int, ...], rules: Sequence[str], chooser: Measured) -> float:
    """Return milliseconds of one kept weight, at least 0.

    Args:
        layer: A learnable layer.
        input_shape: Channels, height, width of what it reads.
        rules: Lowerings to choose from.
        chooser: Times them.
    """
    forms: dict[str, nn.Module] = {}
    names: dict[float, list[str]] = {}  # of the forms, by the weights that they keep
    kernel = False
    for density in DENSITIES:
        pruned = at_density(layer, density)
        fitting = forms_of(pruned, rules)[0]
        forms["dense"] = fitting.pop("dense")
        kernel = kernel or OURS in fitting
        rivals = [OURS] if OURS in fitting else list(fitting)
        kept = float(pruned.mask().sum())
        names[kept] = [f"{name}, {kept:g} weights" for name in rivals]
        forms.update(zip(names[kept], (fitting[name] for name in rivals), strict=True))
    # in one session, so that a slow minute of the machine slows all of them
    times = chooser.times(forms, input_shape, hopeless=math.inf)
    points, odd = _least(times, names)
    if odd and kernel:  # stock forms of fewer weights may really be slower, and would be measured again each time
        points, _ = _least(chooser.times(forms, input_shape, hopeless=math.inf, anew=True), names)
    if not kernel:
        points = {kept: min(time, times["dense"]) for kept, time in points.items()}
        points[float(layer.weight.numel())] = times["dense"]
    if len(points) < 2:
        return 0.0
    return max(0.0, statistics.linear_regression(list(points), list(points.values())).slope)


def _least(times: Mapping[str, float], names: Mapping[float, Sequence[str]]) -> tuple[dict[float, float], bool]:
    """Return what keeping so many weights takes, and whether some of these times cannot be true.

    Shapes that keep less lie within those that keep more, whose forms would do for them: less takes no longer.  A time
    that says otherwise is that of a machine that was busy just then; taken for true, nothing could be gained here.

    Args:
        times: Milliseconds of each form.
        names: Of the forms, by the weights that they keep.
    """
    found: dict[float, float] = {}
    odd, least = False, math.inf
    for kept in sorted((kept for kept, rivals in names.items() if rivals), reverse=True):
        own = min(times[name] for name in names[kept])
        odd, least = odd or own > ODD * least, min(own, least)
        found[kept] = least
    return found, odd


def layer_prices(model: nn.Module, example: Float[Tensor, "n c h w"], settings: PlanSettings) -> dict[str, float]:
    """Return milliseconds of one kept weight of each learnable layer of a converted model.

    Layers that are alike in everything but their weights are timed once.

    Args:
        model: With learnable layers.
        example: Its shape is that of the images.
        settings: The runtime, and what may be used there.
    """
    chooser = dataclasses.replace(settings, plan="measured").chooser()
    assert isinstance(chooser, Measured)
    shapes = input_shapes(model, example, LearnableHetConv2d)
    known: dict[str, float] = {}
    prices = {}
    for name, layer in counted(named_modules_of(model, LearnableHetConv2d).items(), "measuring prices: layer"):
        shape, positions = shapes[name]
        alike = f"{layer} {layer.family.arguments()} {shape} {positions}"
        if alike not in known:
            with torch.no_grad():
                calls = positions / layer(torch.zeros(shape)).shape[-2:].numel()
            known[alike] = calls * price_of(layer, shape[1:], settings.rules, chooser)
        prices[name] = known[alike]
    chooser.timings.save()
    return prices

"""Granularity by measured time: the one that keeps most of a layer at half of its dense time.

Coarse shapes are faster at a density, fine ones keep more of the sum of squared weights.  So each granularity prunes
the layer by magnitude, its forms are timed beside the dense one in one session, and the line between both times says at
which density it takes half of the dense time.  What is kept there decides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.activity import counted
from hetcompress.granularity import FINEST_FIRST, GRANULARITIES, Grain
from hetcompress.lowering import forms_of, input_shapes, vector_of
from hetcompress.nn import LearnableHetConv2d
from hetcompress.planning.measured import OURS, Measured
from hetcompress.planning.prices import at_density
from hetcompress.planning.whole import PlanSettings
from hetcompress.surgery import named_modules_of

__all__ = ["TimedGrain", "choose_granularities"]

DENSITY = 0.25
"""Forms are timed at this density, or the nearest below that the shapes of a layer can have."""
LEAST = 0.02
"""Density; who has to prune further for half of the time does not count as reaching it."""
EXCESS = 1.05
"""Shapes that cannot keep as little as they should, by this factor, do not reach it either."""
SLACK = 0.05
"""Share of the squared weights; a finer granularity may keep so much less, since fine shapes are learned better."""


@dataclasses.dataclass(frozen=True)
class TimedGrain:
    """The granularity of a layer.

    Attributes:
        granularity: Its name.
        grain: What it is for this layer.
        times: Milliseconds of each granularity's fastest form at density 0.25, if it has one besides the dense one, and
            of that, as "dense".  What a layer's neighbours take is taken off.
        kept: Share of the squared weights that each keeps at half of the dense time, where it reaches that.
    """

    granularity: str
    grain: Grain
    times: dict[str, float]
    kept: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the grain, which run folders have elsewhere."""
        return {"granularity": self.granularity, "milliseconds": self.times, "kept": self.kept}


def choose_granularities(
    model: nn.Module, names: Sequence[str], example: Float[Tensor, "n c h w"], settings: PlanSettings
) -> dict[str, TimedGrain]:
    """Return the granularity of each of these convolutions of a dense model.

    Args:
        model: The dense model.
        names: Its layers that are to be converted.
        example: Its shape is that of the images.
        settings: The runtime, and what may be used there.
    """
    chooser = settings.require_runtime().chooser()
    assert isinstance(chooser, Measured), "granularities are chosen by time"
    shapes = input_shapes(model, example, nn.Conv2d)
    convs = named_modules_of(model, nn.Conv2d)
    known: dict[str, _Times] = {}
    chosen = {}
    for name in counted(names, "finding granularities: layer"):
        conv, shape = convs[name], shapes.get(name, ((1, convs[name].in_channels, 16, 16), 0))[0]
        layers = {
            granularity: LearnableHetConv2d.from_conv2d(conv, grain.family, grain.group_out, grain.group_in)
            for granularity, grain in ((finer, GRANULARITIES[finer](conv)) for finer in FINEST_FIRST)
        }
        alike = f"{conv} {shape}"
        if alike not in known:
            known[alike] = _timed(layers, shape[1:], settings.rules, chooser)
        times, densities = known[alike]
        kept = {}
        for granularity in densities:
            density = density_at_half_time(times[granularity], densities[granularity], times["dense"])
            share = None if density is None else _kept(layers[granularity], density)
            if share is not None:
                kept[granularity] = share
        best = _best(times, kept)
        chosen[name] = TimedGrain(best, GRANULARITIES[best](conv), times, kept)
    chooser.timings.save()
    return chosen


def density_at_half_time(time: float, density: float, dense: float) -> float | None:
    """Return the density at which a layer takes half of its dense time; None where it does not get there.

    Args:
        time: What it takes at a density.
        density: That density.
        dense: What the dense form takes, in the same unit.
    """
    found = 1 - (1 - density) * dense / 2 / (dense - time) if time < dense else 0.0
    return found if found >= LEAST else None


def _best(times: Mapping[str, float], kept: Mapping[str, float]) -> str:
    """Return the finest that keeps about as much as any; if none reaches half of the time, the fastest."""
    if kept:
        return next(finer for finer in FINEST_FIRST if finer in kept and kept[finer] >= max(kept.values()) - SLACK)
    return min(FINEST_FIRST, key=lambda finer: times.get(finer, math.inf))


def _kept(layer: LearnableHetConv2d, density: float) -> float | None:
    """Return the share of the squared weights that a layer keeps; None where its shapes have no such density."""
    pruned = at_density(layer, density)
    whole = float(layer.weight.detach().square().sum())
    if float(pruned.mask().mean()) > EXCESS * density:
        return None
    return float(pruned.masked_weight().detach().square().sum()) / whole if whole else 0.0


_Times = tuple[dict[str, float], dict[str, float]]


def _timed(
    layers: Mapping[str, LearnableHetConv2d], input_shape: tuple[int, ...], rules: Sequence[str], chooser: Measured
) -> _Times:
    """Return the times of granularities and of the dense form, our kernel's between its like, and their densities."""
    forms: dict[str, nn.Module] = {}
    owners: dict[str, list[str]] = {}
    vectors: dict[str, int] = {}
    densities: dict[str, float] = {}
    for granularity, layer in layers.items():
        pruned = at_density(layer, DENSITY)
        fitting = forms_of(pruned, rules)[0]
        forms["dense"] = fitting.pop("dense")
        if fitting:
            owned = {f"{granularity}, {name}": form for name, form in fitting.items()}
            owners[granularity] = list(owned)
            densities[granularity] = float(pruned.mask().mean())
            forms.update(owned)
        if OURS in fitting:
            vectors[f"{granularity}, {OURS}"] = vector_of(pruned)
    times = chooser.own_times(forms, input_shape, vectors)
    found = {granularity: min(times[name] for name in names) for granularity, names in owners.items()}
    return {**found, "dense": times["dense"]}, densities

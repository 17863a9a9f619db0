"""Granularity by measured time: the one that keeps most of a layer at half of its dense time.

Coarse shapes are faster at a density, fine ones keep more of the sum of squared weights.  So each granularity prunes
the layer by magnitude, its forms are timed beside the dense one in one session, and the line between both times says at
which density it takes half of the dense time.  What is kept there decides.  The dense form itself does not count: a
layer that stays dense saves nothing of what was pruned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

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

__all__ = ["TimedGrain", "choose_granularities", "density_at_half_time"]

DENSITY = 0.25
"""At which forms are timed."""
LEAST = 0.02
"""Density; a granularity that needs less to reach half of the time does not reach it."""
SLACK = 0.05
"""Share of the squared weights; a finer granularity may keep so much less, since fine shapes are learned better."""


@dataclasses.dataclass(frozen=True)
class TimedGrain:
    """The granularity of a layer.

    Attributes:
        granularity: Its name.
        grain: What it is for this layer.
        times: Milliseconds of each granularity's fastest form besides the dense one at density 0.25, and of that one,
            which is called "dense"; those of a layer's neighbours are taken off.
        kept: Share of the squared weights that each keeps at half of the dense time, where it reaches that.
    """

    granularity: str
    grain: Grain
    times: dict[str, float]
    kept: dict[str, float]


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
    known: dict[str, dict[str, float]] = {}
    chosen = {}
    for name in counted(names, "finding granularities: layer"):
        conv, shape = convs[name], shapes.get(name, ((1, convs[name].in_channels, 16, 16), 0))[0]
        layers = {
            granularity: LearnableHetConv2d.from_conv2d(conv, grain.family, grain.group_out, grain.group_in)
            for granularity, grain in ((finer, GRANULARITIES[finer](conv)) for finer in FINEST_FIRST)
        }
        alike = f"{conv} {shape}"
        if alike not in known:
            known[alike] = _times(layers, shape[1:], settings.rules, chooser)
        times = known[alike]
        kept = {
            granularity: _kept(layer, density)
            for granularity, layer in layers.items()
            if (density := density_at_half_time(times[granularity], times["dense"])) is not None
        }
        best = _best(times, kept)
        chosen[name] = TimedGrain(best, GRANULARITIES[best](conv), times, kept)
    chooser.timings.save()
    return chosen


def density_at_half_time(time: float, dense: float) -> float | None:
    """Return the density at which a granularity takes half of the dense time; None where it does not.

    Args:
        time: What it takes at density 0.25.
        dense: What the dense form takes, in the same unit.
    """
    density = 1 - (1 - DENSITY) * dense / 2 / (dense - time) if time < dense else 0.0
    return density if density >= LEAST else None


def _best(times: Mapping[str, float], kept: Mapping[str, float]) -> str:
    """Return the finest that keeps about as much as any; if none reaches the time, the fastest."""
    if not kept:
        return min(FINEST_FIRST, key=times.__getitem__)
    return next(finer for finer in FINEST_FIRST if kept.get(finer, 0.0) >= max(kept.values()) - SLACK)


def _kept(layer: LearnableHetConv2d, density: float) -> float:
    """Return the share of the squared weights that a layer keeps."""
    whole = float(layer.weight.detach().square().sum())
    return float(at_density(layer, density).masked_weight().detach().square().sum()) / whole if whole else 0.0


def _times(
    layers: Mapping[str, LearnableHetConv2d], input_shape: tuple[int, ...], rules: Sequence[str], chooser: Measured
) -> dict[str, float]:
    """Return the time of each granularity and of the dense form, our kernel's between layers of our kernel."""
    forms: dict[str, nn.Module] = {}
    owners: dict[str, list[str]] = {}
    vectors: dict[str, int] = {}
    for granularity, layer in layers.items():
        pruned = at_density(layer, DENSITY)
        fitting = forms_of(pruned, rules)[0]
        forms["dense"] = fitting.pop("dense")
        owned = {f"{granularity}, {name}": form for name, form in fitting.items()}
        owners[granularity] = list(owned) or ["dense"]
        forms.update(owned)
        if OURS in fitting:
            vectors[f"{granularity}, {OURS}"] = vector_of(pruned)
    times = chooser.own_times(forms, input_shape, vectors)
    found = {granularity: min(times[name] for name in names) for granularity, names in owners.items()}
    return {**found, "dense": times["dense"]}

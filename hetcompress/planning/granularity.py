"""Granularity by measured time: the finest one that is about as fast as the fastest.

Every granularity prunes the layer by magnitude to the same density, and its forms are timed in one session.  The dense
form, which any of them could fall back to, does not count: a layer that stays dense saves nothing of what was pruned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.activity import counted
from hetcompress.granularity import FINEST_FIRST, GRANULARITIES, Grain
from hetcompress.lowering import forms_of, input_shapes
from hetcompress.nn import LearnableHetConv2d
from hetcompress.planning.measured import Measured
from hetcompress.planning.prices import at_density
from hetcompress.planning.whole import PlanSettings
from hetcompress.surgery import named_modules_of

__all__ = ["TimedGrain", "choose_granularities"]

DENSITY = 0.25
SLACK = 0.1
"""A finer granularity may take so much more time, relatively: accuracy is worth it."""


@dataclasses.dataclass(frozen=True)
class TimedGrain:
    """The granularity of a layer.

    Attributes:
        granularity: Its name.
        grain: What it is for this layer.
        times: Milliseconds of each granularity's fastest form besides the dense one, at the same density.
    """

    granularity: str
    grain: Grain
    times: dict[str, float]


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
    known: dict[str, TimedGrain] = {}
    chosen = {}
    for name in counted(names, "finding granularities: layer"):
        shape = shapes.get(name, ((1, convs[name].in_channels, 16, 16), 0))[0]
        alike = f"{convs[name]} {shape}"
        if alike not in known:
            times = _times(convs[name], shape[1:], settings.rules, chooser)
            fastest = min(times.values())
            best = next(finer for finer in FINEST_FIRST if times[finer] <= (1 + SLACK) * fastest)
            known[alike] = TimedGrain(best, GRANULARITIES[best](convs[name]), times)
        chosen[name] = known[alike]
    chooser.timings.save()
    return chosen


def _times(conv: nn.Conv2d, input_shape: tuple[int, ...], rules: Sequence[str], chooser: Measured) -> dict[str, float]:
    forms: dict[str, nn.Module] = {}
    owners: dict[str, list[str]] = {}
    for granularity in FINEST_FIRST:
        grain = GRANULARITIES[granularity](conv)
        layer = LearnableHetConv2d.from_conv2d(conv, grain.family, grain.group_out, grain.group_in)
        fitting = forms_of(at_density(layer, DENSITY), rules)[0]
        forms["dense"] = fitting.pop("dense")
        owned = {f"{granularity}, {name}": form for name, form in fitting.items()}
        owners[granularity] = list(owned) or ["dense"]
        forms.update(owned)
    times = chooser.times(forms, input_shape)
    return {granularity: min(times[name] for name in names) for granularity, names in owners.items()}

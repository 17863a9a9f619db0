"""Our kernel where stock operators leave too much of the gain behind, and nowhere else.

A file that needs a library is a burden; one that is slower than its MACs promise is a worse one.
"""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor, nn

from hetcompress.cost import layer_macs
from hetcompress.kernels import available
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.planning import whole
from hetcompress.planning.measured import OURS
from hetcompress.planning.whole import Plan, PlanSettings
from hetcompress.surgery import named_modules_of

__all__ = ["ENOUGH", "WORTH", "plan", "settled"]

ENOUGH = 0.7
"""Share of the MAC ratio inside the masks that a clock must show; stock operators that do so need no kernel."""
WORTH = 1.25
"""How much faster than stock operators our kernel must be for a file to depend on its library."""


def plan(dense: nn.Module, pruned: nn.Module, example: Tensor, settings: PlanSettings) -> Plan:
    """Choose a form for each pruned layer, and whether our kernel is among the forms, where that is left open.

    Args:
        dense: What the result must beat, in eval mode.
        pruned: With `HetConv2d` layers; left alone.
        example: Its shape is that of the images.
        settings: How to choose.

    Returns:
        A plan whose settings say whether our kernel was allowed.

    Raises:
        UsageError: The runtime is not there.
        VerificationError: A form computes something else than its layer.
    """
    if settings.kernels is not None:
        return whole.settled_plan(dense, pruned, example, settings)
    stock_alone, with_ours = (dataclasses.replace(settings, kernels=kernels) for kernels in (False, True))
    costs = layer_macs(pruned, example).values()
    promised = sum(cost.dense for cost in costs) / sum(cost.effective for cost in costs)
    if promised == 1 or settings.plan == "macs" or settings.target == "torch-cuda":
        return whole.settled_plan(dense, pruned, example, stock_alone)
    ready, reason = available()
    ours = whole.settled_plan(dense, pruned, example, with_ours) if ready and _fine(pruned) else None
    if ours is not None and (expected := _without_ours(ours)) < ENOUGH * promised and _pays(ours, expected):
        return ours  # stock operators need not be put together to be seen to lose
    stock = whole.settled_plan(dense, pruned, example, stock_alone)
    shown = _ratio(stock)
    if 1 < shown >= ENOUGH * promised:
        return stock
    if not ready:
        return _noted(
            stock,
            f"stock operators show {shown:.2f} of a MAC ratio of {promised:.2f}; our kernel, which is made for such "
            f"shapes, is not here: {reason}",
        )
    ours = ours or whole.settled_plan(dense, pruned, example, with_ours)
    if _pays(ours, _at_most(stock)):
        return ours
    return _noted(
        stock,
        f"our kernel was tried: {_ratio(ours):.2f} times as fast as dense, stock operators {shown:.2f}, which is too "
        "little gained for a file that needs a library; --kernels takes it all the same",
    )


def settled(model: nn.Module, settings: PlanSettings) -> PlanSettings:
    """Return settings that say whether our kernel is among the forms, where that is left open.

    A target of time compares many plans, which need one answer: the kernel for shapes that it was made for.  That does
    not depend on whether it was compiled here.

    Args:
        model: Converted or pruned.
        settings: How to choose.

    Raises:
        UsageError: The kernel is wanted and was not compiled, or the runtime is not there.
    """
    if settings.kernels is None:
        settings = dataclasses.replace(settings, kernels=settings.target != "torch-cuda" and _fine(model))
    return settings.require_runtime()


def _fine(model: nn.Module) -> bool:
    """Say whether filters differ in their shapes anywhere, which stock operators rarely turn into time."""
    layers = named_modules_of(model, HetConv2d) | named_modules_of(model, LearnableHetConv2d)
    return any(layer.channel_groups.out_groups > layer.groups for layer in layers.values())


def _pays(ours: Plan, stock: float) -> bool:
    return _ratio(ours) >= WORTH * stock


def _without_ours(planned: Plan) -> float:
    """Return the time ratio that the times of single layers promise of stock operators.

    The survey of each layer holds every form that a plan of stock operators would look at.  Our kernel alone pays
    reorders that it does not pay in the whole, so the promise is rather too high.
    """
    if planned.whole is None:
        return math.inf
    extra = 0.0
    for layer in planned.lowered.layers:
        extra += min(cost for form, cost in layer.costs.items() if form != OURS) - layer.costs[layer.form]
    return planned.whole.dense.median_ms / max(planned.whole.compact.median_ms + extra, 1e-9)


def _noted(planned: Plan, text: str) -> Plan:
    return dataclasses.replace(planned, note="; ".join(filter(None, (planned.note, text))))


def _at_most(planned: Plan) -> float:
    """Return the time ratio of a whole; where a busy machine leaves it open, the highest that it may be."""
    if planned.whole is None:
        return 1.0
    return max(1.0, planned.whole.ratio if planned.whole.steady else planned.whole.ratio_high)


def _ratio(planned: Plan) -> float:
    """Return the time ratio of a whole; 1 where the clock did not show that it is faster."""
    return planned.whole.ratio if planned.whole is not None and planned.whole.verdict == "faster" else 1.0

"""Our kernel where stock operators leave too much of the gain behind, and nowhere else.

A file that needs a library is a burden; one that is slower than its MACs promise is a worse one.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from hetcompress.cost import layer_macs
from hetcompress.kernels import available
from hetcompress.planning import whole
from hetcompress.planning.whole import Plan, PlanSettings

__all__ = ["ENOUGH", "WORTH", "plan"]

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
        return whole.plan(dense, pruned, example, settings)
    stock = whole.plan(dense, pruned, example, dataclasses.replace(settings, kernels=False))
    if settings.plan == "macs" or settings.target == "torch-cuda":
        return stock
    costs = layer_macs(pruned, example).values()
    promised = sum(cost.dense for cost in costs) / sum(cost.effective for cost in costs)
    shown = _ratio(stock)
    if promised == 1 or 1 < shown >= ENOUGH * promised:
        return stock
    ready, reason = available()
    if not ready:
        return _noted(
            stock,
            f"stock operators show {shown:.2f} of a MAC ratio of {promised:.2f}; our kernel, which is made for such "
            f"shapes, is not here: {reason}",
        )
    ours = whole.plan(dense, pruned, example, dataclasses.replace(settings, kernels=True))
    if _ratio(ours) >= WORTH * shown:
        return ours
    return _noted(
        stock,
        f"our kernel was tried: {_ratio(ours):.2f} times as fast as dense, stock operators {shown:.2f}, which is too "
        "little gained for a file that needs a library; --kernels takes it all the same",
    )


def _noted(planned: Plan, text: str) -> Plan:
    return dataclasses.replace(planned, note="; ".join(filter(None, (planned.note, text))))


def _ratio(planned: Plan) -> float:
    """Return the time ratio of a whole; 1 where the clock did not show that it is faster."""
    return planned.whole.ratio if planned.whole is not None and planned.whole.verdict == "faster" else 1.0

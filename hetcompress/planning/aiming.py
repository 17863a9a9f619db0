"""Aiming at a time: the budget whose shapes really take the time that is asked for.

The expected time of a model is ``fixed + sum over layers of price * kept weights``.  Prices come from single layers;
``fixed`` is whatever makes the line go through a whole model that was measured.  So: prune along the line through the
dense model, measure what came out, move the line there, and again until the measured time is the one asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.budgets import Budget, check_ratio
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.latency import SAME
from hetcompress.lowering import fold_batch_norms
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.planning.prices import layer_prices
from hetcompress.planning.whole import PlanSettings, against, plan
from hetcompress.pruning import prune
from hetcompress.surgery import named_modules_of

__all__ = ["Aim", "TimeRatio", "aim", "time_ratio"]

CLOSE = 0.03
"""A measured ratio within this of the one asked for is met: the same files measured twice differ by as much."""
ROUNDS = 4


@dataclasses.dataclass(frozen=True)
class TimeRatio:
    """Dense over compressed time of a whole model in its runtime.

    Attributes:
        asked: The target.
        expected: By the line of prices.
        measured: Median of interleaved rounds; 1 where every layer is best left dense.
        low: Lower end of the 90 % interval of `measured`.
        high: Upper end.
        settings: The runtime and how forms were chosen, plain values.
    """

    asked: float
    expected: float
    measured: float
    low: float
    high: float
    settings: dict[str, Any]

    @property
    def missed(self) -> bool:
        """Whether the model is slower than asked, beyond noise."""
        return self.high * (1 + SAME) < self.asked

    def __str__(self) -> str:
        where = f"{self.settings['target']}, batch {self.settings['batch']}, threads {self.settings['threads']}"
        kernels = ", our kernel" if self.settings["kernels"] else ""
        return (
            f"time ratio asked {self.asked:g}, expected {self.expected:.3g}, measured {self.measured:.3g} "
            f"({self.low:.3g} to {self.high:.3g}) on {where}{kernels}" + ("; MISSED" if self.missed else "")
        )


@dataclasses.dataclass(frozen=True)
class Aim:
    """A budget of time, and what its shapes take.

    Attributes:
        budget: In milliseconds.
        pruned: The model pruned to it by the given worths.
        time: Asked, expected and measured.
    """

    budget: Budget
    pruned: nn.Module
    time: TimeRatio


def time_ratio(
    dense: nn.Module, pruned: nn.Module, example: Float[Tensor, "n c h w"], budget: Budget, settings: PlanSettings
) -> TimeRatio:
    """Measure a pruned model as a whole, in the forms that its plan gives it.

    Args:
        dense: What its time relates to.
        pruned: With `HetConv2d` layers.
        example: Its shape is that of the images.
        budget: Of time; says what was asked and what is expected.
        settings: The runtime, and how forms are chosen.
    """
    planned = plan(dense, pruned, example, settings)
    changed = any(layer.form != "dense" for layer in planned.lowered.layers)
    found = (1.0, 1.0, 1.0)
    if planned.whole is not None and changed:
        found = (planned.whole.ratio, planned.whole.ratio_low, planned.whole.ratio_high)
    return TimeRatio(budget.target, budget.value(_cost(pruned, budget)), *found, dataclasses.asdict(settings))


def _cost(pruned: nn.Module, budget: Budget) -> float:
    layers = named_modules_of(pruned, HetConv2d)
    return budget.fixed + sum(cost * float(layers[name].mask().sum()) for name, cost in budget.unit_costs.items())


def aim(
    dense: nn.Module,
    converted: nn.Module,
    example: Float[Tensor, "n c h w"],
    ratio: float,
    settings: PlanSettings,
    logits: Mapping[str, Tensor],
) -> Aim:
    """Return the budget whose shapes take the time asked for, measured as a whole.

    Args:
        dense: The model whose time is the reference, in eval mode.
        converted: The same model with learnable layers.
        example: Its shape is that of the images.
        ratio: Dense over compressed time.
        settings: The runtime, and how forms are chosen.
        logits: What shapes are worth, by layer.

    Raises:
        UsageError: A ratio below 1, or shapes that cannot be learned.
        NothingToDoError: The ratio cannot be reached; the message says what can.
    """
    check_ratio("--latency-ratio", ratio)
    layers = named_modules_of(converted, LearnableHetConv2d)
    fixed_families = {layer.family.name for layer in layers.values() if not layer.family.learnable}
    if fixed_families:
        raise UsageError(
            "--latency-ratio", expected="shapes that can be learned", found=f"family {', '.join(fixed_families)}"
        )
    prices = layer_prices(converted, example, settings)
    reference = fold_batch_norms(dense, example)
    dense_ms = against(reference, reference, example, settings).dense.median_ms
    if not any(prices.values()):
        raise _unreachable(ratio, "1: on this runtime no layer is faster in any form than dense")
    fixed = dense_ms - sum(price * layers[name].weight.numel() for name, price in prices.items())
    aims: list[Aim] = []
    for _ in range(ROUNDS):
        budget = Budget.of_time_ratio(layers, prices, fixed=fixed, dense=dense_ms, ratio=ratio)
        pruned = prune(converted, budget, logits=logits)
        time = time_ratio(dense, pruned, example, budget, settings)
        aims.append(Aim(budget, pruned, time))
        if abs(time.measured / ratio - 1) <= CLOSE:
            return aims[-1]
        fixed += dense_ms / time.measured - dense_ms / time.expected
    best = min(aims, key=lambda found: abs(found.time.measured - ratio))
    if best.time.missed:
        raise _unreachable(ratio, f"about {best.time.measured:.3g}, the nearest that was measured")
    return best


def _unreachable(ratio: float, reachable: str) -> NothingToDoError:
    return NothingToDoError(
        f"target time ratio {ratio:g} cannot be reached", expected=f"a time ratio of {reachable}", found=f"{ratio:g}",
        fix="aim lower, choose another --granularity when converting, allow --kernels, or another --batch",
    )  # fmt: skip

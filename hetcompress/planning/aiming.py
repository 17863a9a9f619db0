"""Aiming at a time: the budget whose shapes really take the time that is asked for.

The expected time of a model is ``fixed + slope * sum over layers of price * kept weights``.  Prices come from single
layers and say what to prune; ``fixed`` and ``slope`` come from whole models, which alone say how long it takes.  So:
prune along the line through the dense model with slope 1, measure what came out, and go on along the line through the
measured points around the time asked for, until it is met.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.budgets import Budget, check_ratio
from hetcompress.comparisons import SAME
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.kept_costs import kept_cost
from hetcompress.lowering import fold_batch_norms
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.planning.prices import layer_prices
from hetcompress.planning.whole import Against, PlanSettings, settled_plan
from hetcompress.pruning import prune
from hetcompress.surgery import named_modules_of
from hetcompress.wiring import Wiring

__all__ = ["Aim", "TimeRatio", "aim", "time_ratio"]

CLOSE = 0.03
"""A measured ratio within this of the one asked for is met: the same files measured twice differ by as much."""
ROUNDS = 6
LEAST = 0.03
"""Share of the prices of all weights; a target beyond cannot be reached."""


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
    def close(self) -> bool:
        """Whether the measured ratio is the one asked for, as far as measuring again would give the same."""
        return abs(self.measured / self.asked - 1) <= CLOSE

    @property
    def missed(self) -> bool:
        """Whether the model is slower than asked, beyond noise."""
        return self.high * (1 + SAME) < self.asked

    @property
    def beyond(self) -> bool:
        """Whether the model is faster than asked, beyond noise: more was taken away than had to be."""
        return self.low > self.asked * (1 + CLOSE)

    def __str__(self) -> str:
        verdict = "; MISSED" if self.missed else "; further than asked, none nearer was found" if self.beyond else ""
        where = f"{self.settings['target']}, batch {self.settings['batch']}, threads {self.settings['threads']}"
        kernels = ", our kernel" if self.settings["kernels"] else ""
        return (
            f"time ratio asked {self.asked:g}, expected {self.expected:.3g}, measured {self.measured:.3g} "
            f"({self.low:.3g} to {self.high:.3g}) on {where}{kernels}{verdict}"
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
    planned = settled_plan(dense, pruned, example, settings)
    found = (1.0, 1.0, 1.0)
    if planned.whole is not None:
        found = (planned.whole.ratio, planned.whole.ratio_low, planned.whole.ratio_high)
    return TimeRatio(budget.target, budget.value(_cost(pruned, budget)), *found, dataclasses.asdict(settings))


def _cost(pruned: nn.Module, budget: Budget) -> float:
    layers = named_modules_of(pruned, HetConv2d)
    return kept_cost(layers, {name: layers[name].kernel_shapes for name in budget.unit_costs}, budget)


def aim(
    dense: nn.Module,
    converted: nn.Module,
    example: Float[Tensor, "n c h w"],
    ratio: float,
    settings: PlanSettings,
    logits: Mapping[str, Tensor],
    prices: Mapping[str, float] | None = None,
    wiring: Wiring | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Aim:
    """Return the budget whose shapes take the time asked for, measured as a whole.

    Args:
        dense: The model whose time is the reference, in eval mode.
        converted: The same model with learnable layers.
        example: Its shape is that of the images.
        ratio: Dense over compressed time.
        settings: The runtime, and how forms are chosen.
        logits: What shapes are worth, by layer.
        prices: Of a kept weight of each layer, in milliseconds; None measures them.
        wiring: Which filters are read, so that others are not paid for; None counts all.
        announce: Told what is measured, and each time that was.

    Raises:
        UsageError: A ratio below 1, or shapes that cannot be learned.
        NothingToDoError: The ratio cannot be reached; the message says what can.
    """
    check_ratio("--latency-ratio", ratio)
    layers = named_modules_of(converted, LearnableHetConv2d)
    fixed_families = {layer.family.name for layer in layers.values() if not layer.family.learnable}
    if fixed_families:
        raise UsageError(
            "--latency-ratio",
            expected="shapes that can be learned",
            found=f"family {', '.join(fixed_families)}",
            fix="convert again with --family free or sets",
        )
    if prices is None:
        announce(f"timing {len(layers)} layers at several densities on {settings.target}")
        prices = layer_prices(converted, example, settings)
    if not any(prices.values()):
        raise _unreachable(ratio, "1: on this runtime no layer is faster in any form than dense")
    dense_ms = Against(dense, example, settings)(fold_batch_norms(dense, example)).dense.median_ms
    full = sum(price * layers[name].weight.numel() for name, price in prices.items())
    points, aims = [(full, dense_ms)], []
    for _ in range(ROUNDS):
        worth, slope = next_point(points, dense_ms / ratio)
        scaled = {name: slope * price for name, price in prices.items()}
        fixed = dense_ms / ratio - slope * worth
        budget = Budget.of_time_ratio(layers, scaled, fixed=fixed, dense=dense_ms, ratio=ratio, wiring=wiring)
        pruned = prune(converted, budget, logits=logits, strict=False)
        time = time_ratio(dense, pruned, example, budget, settings)
        aims.append(Aim(budget, pruned, time))
        announce(f"pruned for a time ratio of {ratio:g}: measured {time.measured:.3g}")
        if time.close and not time.missed:
            return aims[-1]
        points.append(((_cost(pruned, budget) - fixed) / slope, dense_ms / time.measured))
        if time.measured < ratio and worth <= LEAST * full:
            break
    fast_enough = [found for found in aims if not found.time.missed] or [found for found in aims if found.time.close]
    if not fast_enough:
        raise _unreachable(ratio, f"{max(found.time.measured for found in aims):.3g}, the highest that was measured")
    return min(fast_enough, key=lambda found: found.time.measured)  # coarse shapes may leap over the ratio


def next_point(points: Sequence[tuple[float, float]], wanted: float) -> tuple[float, float]:
    """Return how much to keep next, at its price, and the slope of time there.

    Args:
        points: What was kept, at its price, and the measured time of the whole; the dense model first.
        wanted: The time to reach.
    """
    full, least = points[0][0], LEAST * points[0][0]
    slow = min(point for point in points if point[1] >= wanted or point == points[0])
    fast = max((point for point in points if point[1] < wanted), default=None)
    if len(points) == 1:  # prices alone
        return min(full, max(least, full - (slow[1] - wanted))), 1.0
    if fast is not None:  # between both
        slope = _slope(slow, fast)
        return (fast[0] + (wanted - fast[1]) / slope, slope) if slope else ((slow[0] + fast[0]) / 2, 1.0)
    slope = _slope(sorted(points)[1], slow)  # beyond the fastest so far, in steps that cannot get lost
    nearer = slow[0] - (slow[1] - wanted) / slope if slope else 0.0
    return max(least, slow[0] / 3, min(0.8 * slow[0], nearer)), slope or 1.0


def _slope(first: tuple[float, float], second: tuple[float, float]) -> float | None:
    """Return the slope through two points, None where noise has turned it round."""
    if first[0] == second[0]:
        return None
    slope = (first[1] - second[1]) / (first[0] - second[0])
    return slope if slope > 0 else None


def _unreachable(ratio: float, reachable: str) -> NothingToDoError:
    return NothingToDoError(
        f"target time ratio {ratio:g} cannot be reached", expected=f"a time ratio of {reachable}", found=f"{ratio:g}",
        fix="aim lower, choose another --granularity when converting, or another --batch",
    )  # fmt: skip

"""What may be kept of a model: a share of its weights, of its MACs, or of its time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from hetcompress.errors import UsageError
from hetcompress.nn import LearnableHetConv2d
from hetcompress.wiring import Wiring

__all__ = ["Budget", "check_density", "check_ratio"]


def check_density(option: str, density: float) -> None:
    """Refuse what is no share of weights to keep.

    Raises:
        UsageError: `density` is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise UsageError(
            option, expected="a number in (0, 1]", found=str(density), fix="0.25 keeps a quarter of the weights"
        )


def check_ratio(option: str, ratio: float) -> None:
    """Refuse what is no ratio of a dense model to a smaller one.

    Raises:
        UsageError: `ratio` is below 1 or not finite.
    """
    if not (math.isfinite(ratio) and ratio >= 1):
        raise UsageError(option, expected="a number of at least 1", found=str(ratio), fix="2 asks for half the cost")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much of the converted layers may be kept.

    Attributes:
        unit_costs: What one kept weight costs, by layer: 1 when weights are counted, output positions when MACs are,
            milliseconds when time is; 0 where fewer weights save nothing.
        fixed: What is paid for all the rest of the model, in the same unit (0 when densities are meant).
        beside: Part of `fixed`, by convolution: what it costs as long as all of its filters are read.
        wiring: Which filters are read; None where all are paid for.
        total: Cost of keeping everything, `fixed` included.
        kept: What may be left of `total`, `fixed` included.
        unit: "density", "MAC ratio" or "time ratio".
        target: The target as the user gave it.
        reference: What densities and ratios relate to: the cost of the dense model.
        also: A second budget of the same layers that holds as well.
        parts: The budgets that this one is a mixture of (`mixed`); empty otherwise.
    """

    unit_costs: Mapping[str, float]
    fixed: float
    total: float
    kept: float
    unit: str
    target: float
    reference: float
    beside: Mapping[str, float] = dataclasses.field(default_factory=dict)
    wiring: Wiring | None = None
    also: Budget | None = None
    parts: tuple[Budget, ...] = ()

    @classmethod
    def of_density(cls, layers: Mapping[str, LearnableHetConv2d], density: float) -> Budget:
        """Return the budget of a share of the weights of the converted layers.

        Raises:
            UsageError: `density` is not in (0, 1].
        """
        check_density("--density", density)
        total = float(sum(layer.weight.numel() for layer in layers.values()))
        return cls(dict.fromkeys(layers, 1.0), 0.0, total, density * total, "density", density, total)

    @classmethod
    def of_mac_ratio(
        cls,
        layers: Mapping[str, LearnableHetConv2d],
        positions: Mapping[str, int],
        total_macs: int,
        ratio: float,
        *,
        beside: Mapping[str, float] | None = None,
        wiring: Wiring | None = None,
    ) -> Budget:
        """Return the budget of a ratio of dense to kept MACs of the whole model.

        Args:
            layers: The converted layers.
            positions: How often each layer applies its kernels to one image (output height x width, summed over calls).
            total_macs: Dense MACs of the whole model on one image.
            ratio: Dense over kept MACs.
            beside: Dense MACs of other convolutions, which fall with the filters that nothing reads.
            wiring: Which filters are read; None counts all.

        Raises:
            UsageError: `ratio` is below 1 or not finite.
        """
        check_ratio("--mac-ratio", ratio)
        converted = sum(layer.weight.numel() * positions[name] for name, layer in layers.items())
        costs = {name: float(positions[name]) for name in layers}
        total = float(total_macs)
        kept = total / ratio
        return cls(costs, total - converted, total, kept, "MAC ratio", ratio, total, beside or {}, wiring)

    @classmethod
    def of_time_ratio(
        cls,
        layers: Mapping[str, LearnableHetConv2d],
        prices: Mapping[str, float],
        *,
        fixed: float,
        dense: float,
        ratio: float,
        wiring: Wiring | None = None,
    ) -> Budget:
        """Return the budget of a ratio of the dense model's time to the expected time.

        Args:
            layers: The converted layers.
            prices: Milliseconds of one kept weight of each layer, at least 0.
            fixed: Milliseconds that are paid whatever is kept.
            dense: Milliseconds of the dense model.
            ratio: Dense over expected time.
            wiring: Which filters are read; None counts all.

        Raises:
            UsageError: `ratio` is below 1 or not finite.
        """
        check_ratio("--latency-ratio", ratio)
        total = fixed + sum(layer.weight.numel() * prices[name] for name, layer in layers.items())
        return cls(dict(prices), fixed, total, dense / ratio, "time ratio", ratio, dense, wiring=wiring)

    def to_json(self) -> dict[str, Any]:
        """Return plain values of a budget that stands alone, the wiring left out: it is the model's."""
        assert self.also is None
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("wiring", "also", "parts")]
        return {name: getattr(self, name) for name in names}

    def value(self, cost: float) -> float:
        """Return the density, or the ratio, that a cost amounts to (infinite where nothing is left to pay)."""
        if self.unit == "density":
            return cost / self.reference
        return self.reference / cost if cost > 0 else math.inf

    @property
    def share(self) -> float:
        """What may be kept of the converted layers alone, 0 to 1 (below 0 when not even all of them would do)."""
        if self.parts:
            return min(part.share for part in self.parts)
        converted = self.total - self.fixed
        own = (self.kept - self.fixed) / converted if converted else 1.0
        return own if self.also is None else min(own, self.also.share)

    def channel_taps(self, layers: Mapping[str, LearnableHetConv2d]) -> dict[str, float]:
        """Return what keeping an input channel of each layer costs besides, in kept taps of that channel.

        It is what the filters that make the channel cost, of which the share stays that stays of all, over what a tap
        of it costs in all layers that read it; 0 for channels that are needed anyway.
        """
        if self.wiring is None:
            return dict.fromkeys(layers, 0.0)
        made, read = (torch.zeros(len(self.wiring.needed), dtype=torch.float64) for _ in range(2))
        for name, numbers in self.wiring.makes.items():
            cost = self.beside.get(name, 0.0)
            if name in layers:
                cost = layers[name].weight.numel() * self.unit_costs[name] * min(max(self.share, 0.0), 1.0)
            made.index_add_(0, numbers, torch.full((len(numbers),), cost / len(numbers), dtype=torch.float64))
        for name, numbers in self.wiring.reads.items():
            tap = self.unit_costs[name] * layers[name].out_channels
            read.index_add_(0, numbers, torch.full((len(numbers),), tap, dtype=torch.float64))
        taps = torch.where(self.wiring.needed, 0.0, made / read.clamp_min(1e-12))
        return {
            name: float(taps[self.wiring.reads[name]].mean()) if name in self.wiring.reads else 0.0 for name in layers
        }

    def __str__(self) -> str:
        if self.parts:
            return " and ".join(map(str, self.parts))
        own = f"{self.unit} {self.target:g}"
        return own if self.also is None else f"{own} and {self.also}"

    def relaxed(self, share: float) -> Budget:
        """Return the budget on the way from the dense model (`share` 0) to this one (1)."""
        also = None if self.also is None else self.also.relaxed(share)
        return dataclasses.replace(self, kept=self.total + share * (self.kept - self.total), also=also)

    def mixed(self, share: float) -> Budget:
        """Return this budget and the one that holds as well as one, of which 1 may be kept.

        Its prices are those of both, each in parts of what may be kept; what masks cost in it is the larger part, see
        `hetcompress.kept_costs.kept_cost`.

        Args:
            share: How much the prices of the second count, 0 to 1; those of the first have the rest.
        """
        assert self.also is not None
        first, second = dataclasses.replace(self, also=None), self.also
        own, its = (1 - share) / first.kept, share / second.kept

        def both(name: str) -> float:
            return own * float(getattr(first, name)) + its * float(getattr(second, name))

        return dataclasses.replace(
            first,
            unit_costs={name: own * cost + its * second.unit_costs[name] for name, cost in first.unit_costs.items()},
            fixed=both("fixed"), total=both("total"), kept=1.0, reference=both("reference"),
            beside={name: own * cost for name, cost in first.beside.items()}, parts=(first, second),
        )  # fmt: skip

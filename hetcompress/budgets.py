"""What may be kept of a model: a share of its weights, or of its MACs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from hetcompress.errors import UsageError
from hetcompress.nn import LearnableHetConv2d

__all__ = ["Budget"]


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much of the converted layers may be kept.

    Attributes:
        unit_costs: What one kept weight costs, by layer: 1 when weights are counted, output positions when MACs are.
        fixed: Cost of everything that is not converted, in the same unit (0 when densities are meant).
        total: Cost of the dense model, `fixed` included.
        kept: What may be left of `total`, `fixed` included.
        unit: "density" or "MAC ratio".
        target: The target as the user gave it.
    """

    unit_costs: Mapping[str, float]
    fixed: float
    total: float
    kept: float
    unit: str
    target: float

    @classmethod
    def of_density(cls, layers: Mapping[str, LearnableHetConv2d], density: float) -> Budget:
        """Return the budget of a share of the weights of the converted layers.

        Raises:
            UsageError: `density` is not in (0, 1].
        """
        if not (math.isfinite(density) and 0 < density <= 1):
            raise UsageError("--density", expected="a number in (0, 1]", found=str(density))
        total = float(sum(layer.weight.numel() for layer in layers.values()))
        return cls(dict.fromkeys(layers, 1.0), 0.0, total, density * total, "density", density)

    @classmethod
    def of_mac_ratio(
        cls, layers: Mapping[str, LearnableHetConv2d], positions: Mapping[str, int], total_macs: int, ratio: float
    ) -> Budget:
        """Return the budget of a ratio of dense to kept MACs of the whole model.

        Args:
            layers: The converted layers.
            positions: How often each layer applies its kernels to one image (output height x width, summed over calls).
            total_macs: Dense MACs of the whole model on one image.
            ratio: Dense over kept MACs.

        Raises:
            UsageError: `ratio` is below 1 or not finite.
        """
        if not (math.isfinite(ratio) and ratio >= 1):
            raise UsageError("--mac-ratio", expected="a number of at least 1", found=str(ratio))
        converted = sum(layer.weight.numel() * positions[name] for name, layer in layers.items())
        costs = {name: float(positions[name]) for name in layers}
        return cls(costs, float(total_macs - converted), float(total_macs), total_macs / ratio, "MAC ratio", ratio)

    @property
    def share(self) -> float:
        """What may be kept of the converted layers alone, 0 to 1 (below 0 when not even all of them would do)."""
        return (self.kept - self.fixed) / (self.total - self.fixed)

    def __str__(self) -> str:
        return f"{self.unit} {self.target:g}"

    def relaxed(self, share: float) -> Budget:
        """Return the budget on the way from the dense model (`share` 0) to this one (1)."""
        return dataclasses.replace(self, kept=self.total + share * (self.kept - self.total))

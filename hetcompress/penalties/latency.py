"""Distance to a share of the expected time: ``|target - sum_l price_l * kept_l / sum_l price_l * weights_l|``."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties.base import PENALTIES, Penalty, kept_share

__all__ = ["LatencyPenalty"]


@PENALTIES.register("latency")
class LatencyPenalty(Penalty):
    """Distance to a share of the time that kept weights cost, by prices measured on the target runtime.

    Layers whose price is 0 feel nothing: fewer weights would not make them faster.
    """

    name = "latency"
    unit = "time ratio"

    def __call__(self, layers: Mapping[str, LearnableHetConv2d]) -> Float[Tensor, ""]:
        """Return |target - share of the expected time|."""
        return (self.target - kept_share(layers, self.unit_costs)).abs()

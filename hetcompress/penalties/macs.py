"""Distance to a MAC density: ``|target - MAC density|``."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties.base import PENALTIES, Penalty, kept_share

__all__ = ["MacsPenalty"]


@PENALTIES.register("macs")
class MacsPenalty(Penalty):
    """Distance to a share of the MACs of the converted layers, global over all of them."""

    name = "macs"
    unit = "MAC ratio"

    def __call__(self, layers: Mapping[str, LearnableHetConv2d]) -> Float[Tensor, ""]:
        """Return |target - MAC density|."""
        return (self.target - kept_share(layers, self.unit_costs)).abs()

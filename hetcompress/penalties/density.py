"""The penalty of LHC (arXiv 2301.05440): ``0.01 * MAC density + 0.99 * |target - weight density|``."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties.base import PENALTIES, Penalty, kept_share

__all__ = ["DensityPenalty"]

MAC_SHARE = 0.01
"""The paper's released weight of the MAC density; the weight density has the rest."""


@PENALTIES.register("density")
class DensityPenalty(Penalty):
    """Distance to a weight density, global over all layers, with a small pull towards fewer MACs."""

    name = "density"
    unit = "density"

    def __call__(self, layers: Mapping[str, LearnableHetConv2d]) -> Float[Tensor, ""]:
        """Return 0.01 * MAC density + 0.99 * |target - weight density|."""
        macs = kept_share(layers, self.unit_costs)
        return MAC_SHARE * macs + (1 - MAC_SHARE) * (self.target - kept_share(layers)).abs()

    @property
    def maximum(self) -> float:
        """See `Penalty.maximum`; as in the paper's released code, with all MACs kept in either case."""
        return MAC_SHARE + (1 - MAC_SHARE) * super().maximum

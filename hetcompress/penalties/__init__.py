"""Penalties: differentiable scalars that push shape logits towards a budget."""

from hetcompress.penalties.base import PENALTIES, Penalty
from hetcompress.penalties.density import DensityPenalty
from hetcompress.penalties.latency import LatencyPenalty
from hetcompress.penalties.macs import MacsPenalty

__all__ = ["PENALTIES", "DensityPenalty", "LatencyPenalty", "MacsPenalty", "Penalty"]

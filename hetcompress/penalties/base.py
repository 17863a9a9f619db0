"""The contract of a penalty."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.nn import LearnableHetConv2d
from hetcompress.registry import Registry

__all__ = ["PENALTIES", "Penalty", "kept_share"]


class Penalty(abc.ABC):
    """A differentiable scalar added to the task loss, smallest when the layers meet the target.

    Args:
        target: The share to keep, in the unit that `unit` names.
        unit_costs: What one kept weight of each layer costs besides being stored: how often it is applied to one
            image, or its time.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    """Of the budgets that it serves, as `Budget.unit` says it."""

    def __init__(self, target: float, unit_costs: Mapping[str, float]) -> None:
        self.target = target
        self.unit_costs = unit_costs

    @abc.abstractmethod
    def __call__(self, layers: Mapping[str, LearnableHetConv2d]) -> Float[Tensor, ""]:
        """Return the penalty of these layers: 0 or little at the target, at most `maximum`."""

    @property
    def maximum(self) -> float:
        """The largest value, of full kernels or of empty ones; the penalty's weight is scaled by it."""
        return max(1 - self.target, self.target)


def kept_share(
    layers: Mapping[str, LearnableHetConv2d], unit_costs: Mapping[str, float] | None = None
) -> Float[Tensor, ""]:
    """Return kept over full cost of all layers together: a share of weights, or of what `unit_costs` counts."""
    costs = unit_costs or dict.fromkeys(layers, 1)
    kept = torch.stack([layer.kept_weights() * costs[name] for name, layer in layers.items()]).sum()
    return kept / sum(layer.weight.numel() * costs[name] for name, layer in layers.items())


PENALTIES: Registry[type[Penalty]] = Registry("penalty")

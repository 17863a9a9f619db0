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
        positions: How often each layer applies its kernels to one image.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    """What `target` is a share of: "density" (weights of the converted layers) or "MAC ratio" (their MACs)."""

    def __init__(self, target: float, positions: Mapping[str, int]) -> None:
        self.target = target
        self.positions = positions

    @abc.abstractmethod
    def __call__(self, layers: Mapping[str, LearnableHetConv2d]) -> Float[Tensor, ""]:
        """Return the penalty of these layers, between 0 and `maximum`."""

    @property
    @abc.abstractmethod
    def maximum(self) -> float:
        """The largest value the penalty can take; its weight is scaled by it."""


def kept_share(
    layers: Mapping[str, LearnableHetConv2d], unit_costs: Mapping[str, int] | None = None
) -> Float[Tensor, ""]:
    """Return kept over dense cost of all layers together: weight density, or MAC density with positions as costs."""
    costs = unit_costs or dict.fromkeys(layers, 1)
    kept = torch.stack([layer.kept_weights() * costs[name] for name, layer in layers.items()]).sum()
    return kept / sum(layer.weight.numel() * costs[name] for name, layer in layers.items())


PENALTIES: Registry[type[Penalty]] = Registry("penalty")

"""Other ways to make one score of magnitudes and sensitivities, to be compared with the package's `blend`.

`ablation.py` puts them in place of a recipe's method.  A score has two parts: how the taps of a layer are ranked, and
how much the layer as a whole is worth beside others.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from hetcompress.budgets import Budget
from hetcompress.goals import ShapeSettings
from hetcompress.learners import SensitivityLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pruning import magnitudes
from hetcompress.surgery import named_modules_of

__all__ = ["geometric_mean", "layers_by_magnitude"]


class Combined(SensitivityLearner):
    """A schedule over scores that follow from sensitivities and magnitudes."""

    @abc.abstractmethod
    def combine(self, sensitivity: Tensor, magnitude: Tensor) -> Tensor:
        """Return the score of a layer's taps of both, each of which is comparable over layers."""

    def scores(self) -> dict[str, Tensor]:
        """Return what both make of each layer."""
        sensitivities, sizes = super().scores(), magnitudes(self.layers)
        return {name: self.combine(sensitivities[name], sizes[name]) for name in sizes}


class GeometricMean(Combined):
    """Of both."""

    def combine(self, sensitivity: Tensor, magnitude: Tensor) -> Tensor:
        """Return it."""
        return (sensitivity * magnitude).sqrt()


class LayersByMagnitude(Combined):
    """Taps are ranked by sensitivity, layers by their mean magnitude."""

    def combine(self, sensitivity: Tensor, magnitude: Tensor) -> Tensor:
        """Return sensitivities, scaled to the layer's mean magnitude."""
        return sensitivity * (magnitude.mean() / sensitivity.mean().clamp_min(torch.finfo(sensitivity.dtype).tiny))


def geometric_mean(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Combined:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return GeometricMean(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)


def layers_by_magnitude(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Combined:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return LayersByMagnitude(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)

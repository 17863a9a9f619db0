"""Other ways to make one score of magnitudes and sensitivities, to be compared with the package's `blend`.

`ablation.py` puts them in place of a recipe's method.  A score has two parts: how the taps of a layer are ranked, and
how much the layer as a whole is worth beside others.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hetcompress.budgets import Budget
from hetcompress.goals import ShapeSettings
from hetcompress.learners import SensitivityLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pruning import magnitudes
from hetcompress.surgery import named_modules_of

__all__ = ["curvature", "geometric_mean", "layers_by_magnitude", "taps_by_both", "taps_by_curvature", "taps_by_energy"]


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


class TapsByBoth(Combined):
    """Taps are ranked by the geometric mean of both, layers by their mean sensitivity."""

    def combine(self, sensitivity: Tensor, magnitude: Tensor) -> Tensor:
        """Return the geometric mean, scaled to the layer's mean sensitivity."""
        both = (sensitivity * magnitude).sqrt()
        return both * (sensitivity.mean() / both.mean().clamp_min(torch.finfo(both.dtype).tiny))


class LayersByMagnitude(Combined):
    """Taps are ranked by sensitivity, layers by their mean magnitude."""

    def combine(self, sensitivity: Tensor, magnitude: Tensor) -> Tensor:
        """Return sensitivities, scaled to the layer's mean magnitude."""
        return sensitivity * (magnitude.mean() / sensitivity.mean().clamp_min(torch.finfo(sensitivity.dtype).tiny))


class Watching(SensitivityLearner):
    """A schedule that also watches the mean squares of what layers read, and of the gradients of what they give.

    A tap of weight `w` that goes changes an output by `w x`, so the loss in second order by half of
    ``w^2 E[x^2] E[g^2]`` at each position, with the Fisher information for the curvature and its factors taken as
    independent (Optimal Brain Damage; KFC, arXiv 1602.01407).
    """

    def __init__(self, layers: Mapping[str, LearnableHetConv2d], budget: Budget, *, ramp: float, every: int) -> None:
        super().__init__(layers, budget, ramp=ramp, every=every)
        self.read: dict[str, Tensor] = {}
        self.felt: dict[str, Tensor] = {}
        self.positions: dict[str, int] = {}
        for name, layer in layers.items():
            layer.register_forward_pre_hook(functools.partial(self._reads, name))
            layer.register_full_backward_hook(functools.partial(self._feels, name))

    def _reads(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer.training:
            self._average(self.read, name, inputs[0])

    def _feels(self, name: str, _layer: nn.Module, _inputs: object, outputs: tuple[Tensor, ...]) -> None:
        self.positions[name] = outputs[0][0, 0].numel()
        self._average(self.felt, name, outputs[0])

    def _average(self, averages: dict[str, Tensor], name: str, images: Tensor) -> None:
        squares = images.detach().float().square().mean((0, 2, 3))
        averages[name] = averages.get(name, squares).lerp(squares, 1 - self.momentum)

    def weighted(self, name: str, *, curved: bool) -> Tensor:
        """Return the mean of ``w^2 E[x^2]`` over each tap's group, or, if `curved`, of ``w^2 E[x^2] E[g^2]``."""
        layer = self.layers[name]
        squares = layer.weight.detach().square() * self.read[name].view(1, -1, 1, 1)
        if curved:
            squares = squares * self.felt[name].view(-1, 1, 1, 1)
        groups = layer.channel_groups
        return groups.total(squares) / groups.sizes().to(squares)[..., None, None]


class Curvature(Watching):
    """Taps and layers by what the loss would change in second order."""

    def scores(self) -> dict[str, Tensor]:
        """Return it, scaled to a mean of 1 over all layers."""
        found = {name: self.positions[name] * self.weighted(name, curved=True) for name in self.layers}
        mean = torch.cat([value.flatten() for value in found.values()]).mean()
        return {name: value / mean for name, value in found.items()}


class TapsWeighted(Watching):
    """Taps by energy or curvature, layers by sensitivity."""

    curved = False

    def scores(self) -> dict[str, Tensor]:
        """Return what taps are worth, scaled to each layer's mean sensitivity."""
        scores = {}
        for name, sensitivity in super().scores().items():
            found = self.weighted(name, curved=self.curved)
            scores[name] = found * (sensitivity.mean() / found.mean())
        return scores


class TapsCurved(TapsWeighted):
    """Taps by curvature."""

    curved = True


def geometric_mean(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Combined:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return GeometricMean(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)


def layers_by_magnitude(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Combined:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return LayersByMagnitude(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)


def taps_by_both(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Combined:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return TapsByBoth(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)


def curvature(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Watching:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return Curvature(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)


def taps_by_energy(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Watching:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return TapsWeighted(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)


def taps_by_curvature(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> Watching:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return TapsCurved(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp, every=shapes.every)

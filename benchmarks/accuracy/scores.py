"""Other scores of taps, to be compared with the package's `blend`.

`ablation.py` puts them in place of a recipe's method.  A score has two parts: how the taps of a layer are ranked, and
how much the layer as a whole is worth beside others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hetcompress.budgets import Budget
from hetcompress.goals import ShapeSettings
from hetcompress.learners import SensitivityLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pruning import magnitudes
from hetcompress.surgery import named_modules_of

__all__ = [
    "Combined", "Curved", "geometric_mean", "layers_by_magnitude", "layers_by_root", "learner", "taps_by_both",
    "taps_by_norm",
]  # fmt: skip

Combination = Callable[[Tensor, Tensor], Tensor]
"""Sensitivities and magnitudes of a layer's taps, each comparable over layers, to their scores."""


def learner(kind: Callable[..., SensitivityLearner], **given: Any) -> Callable[..., SensitivityLearner]:
    """Return what takes the place of `hetcompress.goals.learner_of`, and makes a learner of this kind."""

    def build(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> SensitivityLearner:
        layers = named_modules_of(model, LearnableHetConv2d)
        return kind(layers, budget, ramp=shapes.ramp, every=shapes.every, **given)

    return build


def worth(taps: Tensor, layer: Tensor) -> Tensor:
    """Return what ranks taps, scaled to what the layer is worth."""
    return taps * (layer / taps.mean().clamp_min(torch.finfo(taps.dtype).tiny))


def geometric_mean(sensitivity: Tensor, magnitude: Tensor) -> Tensor:
    """Both alike, for taps and layers."""
    return (sensitivity * magnitude).sqrt()


def taps_by_both(sensitivity: Tensor, magnitude: Tensor) -> Tensor:
    """Taps by the geometric mean, layers by sensitivity."""
    return worth((sensitivity * magnitude).sqrt(), sensitivity.mean())


def taps_by_norm(sensitivity: Tensor, magnitude: Tensor) -> Tensor:
    """Taps by root mean squares in place of mean squares, which sets layers further apart; layers by sensitivity."""
    return worth(magnitude.sqrt(), sensitivity.mean())


def layers_by_root(sensitivity: Tensor, magnitude: Tensor) -> Tensor:
    """Taps by magnitude, layers by the root of their sensitivity, which sets layers less far apart."""
    return worth(magnitude, sensitivity.mean().sqrt())


def layers_by_magnitude(sensitivity: Tensor, magnitude: Tensor) -> Tensor:
    """Taps by sensitivity, layers by magnitude."""
    return worth(sensitivity, magnitude.mean())


class Combined(SensitivityLearner):
    """A schedule over scores that follow from sensitivities and magnitudes.

    Args:
        *arguments: As those of every schedule, like the rest.
        combine: What makes one score of both.
    """

    def __init__(self, *arguments: Any, combine: Combination, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.combine = combine

    def scores(self) -> dict[str, Tensor]:
        """Return what both make of each layer."""
        sensitivities, sizes = super().scores(), magnitudes(self.layers)
        return {name: self.combine(sensitivities[name], sizes[name]) for name in sizes}


class Curved(SensitivityLearner):
    """A schedule over what the loss would change in second order.

    A tap of weight `w` that goes changes an output by `w x`, so the loss by half of ``w^2 E[x^2] E[g^2]`` at each
    position, with the Fisher information for the curvature and its factors taken as independent (Optimal Brain Damage;
    KFC, arXiv 1602.01407).

    Args:
        *arguments: As those of every schedule, like the rest.
        gradients: Whether ``E[g^2]`` counts; without it a tap is worth what it adds to the outputs.
        layers_too: Whether layers are compared by it; else by sensitivity.
    """

    def __init__(self, *arguments: Any, gradients: bool = True, layers_too: bool = False, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.gradients, self.layers_too = gradients, layers_too
        self.read: dict[str, Tensor] = {}
        self.felt: dict[str, Tensor] = {}
        self.positions: dict[str, int] = {}
        for name, layer in self.layers.items():
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

    def scores(self) -> dict[str, Tensor]:
        """Return it for each tap, a mean over the group's kernels."""
        found = {}
        for name, sensitivity in super().scores().items():
            layer = self.layers[name]
            squares = layer.weight.detach().square() * self.read[name].view(1, -1, 1, 1)
            if self.gradients:
                squares = squares * self.felt[name].view(-1, 1, 1, 1)
            groups = layer.channel_groups
            means = groups.total(squares) / groups.sizes().to(squares)[..., None, None]
            found[name] = means * self.positions[name] if self.layers_too else worth(means, sensitivity.mean())
        scale = torch.cat([value.flatten() for value in found.values()]).mean()
        return {name: value / scale for name, value in found.items()}

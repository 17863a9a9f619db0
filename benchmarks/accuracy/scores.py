"""Other ways to make one score of magnitudes and sensitivities, to be compared with the package's `blend`.

`ablation.py` puts them in place of a recipe's method.  A score has two parts: how the taps of a layer are ranked, and
how much the layer as a whole is worth beside others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hetcompress.budgets import Budget
from hetcompress.goals import ShapeSettings
from hetcompress.learners import SensitivityLearner, ShapeLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pruning import magnitudes
from hetcompress.surgery import named_modules_of

__all__ = ["geometric_mean", "layers_by_magnitude"]

Scores = Mapping[str, Tensor]


class Combined(SensitivityLearner):
    """A schedule over scores that follow from sensitivities and magnitudes.

    Args:
        layers: The learnable layers.
        budget: What may be left at the end.
        ramp: Share of stage 1 after which the whole budget applies.
        every: Steps between two choices.
        combine: The score of a layer's taps of their sensitivities and their magnitudes, each comparable over layers.
    """

    def __init__(
        self, layers: Mapping[str, LearnableHetConv2d], budget: Budget, *, ramp: float, every: int,
        combine: Callable[[Tensor, Tensor], Tensor],
    ) -> None:  # fmt: skip
        super().__init__(layers, budget, ramp=ramp, every=every)
        self.combine = combine

    def scores(self) -> dict[str, Tensor]:
        """Return them, scaled to a mean of 1 over all layers."""
        sensitivities, sizes = super().scores(), magnitudes(self.layers)
        found = {name: self.combine(sensitivities[name], sizes[name]) for name in sizes}
        mean = torch.cat([value.flatten() for value in found.values()]).mean()
        return {name: value / mean for name, value in found.items()}


def learner(
    model: nn.Module, shapes: ShapeSettings, budget: Budget, combine: Callable[[Tensor, Tensor], Tensor]
) -> ShapeLearner:
    """Return the learner of a way to combine both."""
    layers = named_modules_of(model, LearnableHetConv2d)
    return Combined(layers, budget, ramp=shapes.ramp, every=shapes.every, combine=combine)


def geometric_mean(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> ShapeLearner:
    """Return the learner of geometric means, as `hetcompress.goals.learner_of` does."""
    return learner(model, shapes, budget, lambda sensitivity, magnitude: (sensitivity * magnitude).sqrt())


def layers_by_magnitude(model: nn.Module, shapes: ShapeSettings, budget: Budget, *_: object) -> ShapeLearner:
    """Return the learner that ranks taps by sensitivity, and layers by their mean magnitude."""
    return learner(model, shapes, budget, lambda sensitivity, magnitude: sensitivity * scale(magnitude, sensitivity))


def scale(wanted: Tensor, given: Tensor) -> Tensor:
    """Return what leads the mean of `given` to that of `wanted`."""
    return wanted.mean() / given.mean().clamp_min(torch.finfo(given.dtype).tiny)

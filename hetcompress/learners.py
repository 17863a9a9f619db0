"""How shapes are learned in stage 1: by penalised logits, or by a schedule over scores.

A learner sees the training loop at four points: it may set up the layers for a step, add to the loss, act after the
backward pass, and at the end say what every shape is worth.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hetcompress.allocation import allocate
from hetcompress.budgets import Budget
from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties import Penalty
from hetcompress.pruning import magnitudes, worths
from hetcompress.registry import Registry
from hetcompress.schedules import cubic, linear, penalty_weight

__all__ = [
    "LEARNERS",
    "BlendLearner",
    "MagnitudeLearner",
    "PenaltyLearner",
    "ScheduleLearner",
    "SensitivityLearner",
    "ShapeLearner",
]

Layers = Mapping[str, LearnableHetConv2d]


class ShapeLearner(abc.ABC):
    """What stage 1 does beside training the weights."""

    trains_logits: bool
    warm_steps: int = 0
    """Steps of stage 1 before shapes can be chosen in it; 0 where each step moves them."""

    def before_forward(self, progress: float) -> None:  # noqa: B027  most learners do nothing
        """Prepare the layers for a step; all that is set here must follow from `progress`, for resumed runs."""

    @abc.abstractmethod
    def loss(self, progress: float, task_loss: Tensor) -> Tensor | None:
        """Return what is added to the task loss, or None.

        Args:
            progress: Steps of stage 1 done over all of them, 0 to 1.
            task_loss: The loss of this step's batch, 0-d.
        """

    @abc.abstractmethod
    def after_backward(self, progress: float, step: int, scale: float) -> None:
        """Act on the gradients of this step.

        Args:
            progress: Steps of stage 1 done over all of them, 0 to 1.
            step: Counts the steps of stage 1 from 0.
            scale: How many times too large gradients are of tensors that the optimiser does not own, for the sake of
                float16; where they overflow, the optimiser leaves the step out.
        """

    @abc.abstractmethod
    def final_logits(self) -> dict[str, Tensor]:
        """Return what shapes are worth, for the exact prune."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  most learners have none
        """Take up the state of an earlier run."""


LEARNERS: Registry[type[ShapeLearner]] = Registry("method")


@LEARNERS.register("penalty")
class PenaltyLearner(ShapeLearner):
    """LHC's way: logits train with the weights under a penalty; masks are switched on channel by channel.

    Args:
        layers: The learnable layers.
        penalty: The penalty, which knows its target.
        warmup: Share of stage 1 over which penalty and masks are phased in.
        calibration: Share of stage 1 whose mean task loss scales the penalty (the paper: the first epoch).
    """

    trains_logits = True

    def __init__(self, layers: Layers, penalty: Penalty, *, warmup: float, calibration: float) -> None:
        self.layers = layers
        self.penalty = penalty
        self.warmup = warmup
        self.calibration = calibration
        self.loss_sum, self.loss_count = 0.0, 0

    def before_forward(self, progress: float) -> None:
        """Phase the masks in."""
        for layer in self.layers.values():
            layer.mask_share = linear(progress, self.warmup)

    def loss(self, progress: float, task_loss: Tensor) -> Tensor | None:
        """Return the weighted penalty; None while the first task loss is being measured."""
        if progress < self.calibration or self.loss_count == 0:
            self.loss_sum += float(task_loss.detach())
            self.loss_count += 1
            return None
        weight = penalty_weight(
            progress - self.calibration,
            first_loss=self.loss_sum / self.loss_count,
            maximum=self.penalty.maximum,
            warmup=self.warmup,
        )
        return weight * self.penalty(self.layers)

    def after_backward(self, progress: float, step: int, scale: float) -> None:
        """Do nothing: the optimiser moves the logits."""

    def final_logits(self) -> dict[str, Tensor]:
        """Return the learned logits."""
        return {name: layer.shape_logits.detach() for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the measured task loss."""
        return {"loss_sum": self.loss_sum, "loss_count": self.loss_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the measured task loss."""
        self.loss_sum, self.loss_count = float(state["loss_sum"]), int(state["loss_count"])


class ScheduleLearner(ShapeLearner):
    """Tighten the budget on a cubic schedule; the shapes worth most at the moment are kept.

    Args:
        layers: The learnable layers.
        budget: What may be left at the end.
        ramp: Share of stage 1 after which the whole budget applies.
        every: Steps between two choices.
    """

    trains_logits = False
    warm_steps = 1
    """At the first step everything may be kept still."""

    def __init__(self, layers: Layers, budget: Budget, *, ramp: float, every: int) -> None:
        self.layers = layers
        self.budget = budget
        self.ramp = ramp
        self.every = every

    @abc.abstractmethod
    def scores(self) -> dict[str, Tensor]:
        """Return what each tap of each channel group is worth now, by layer, non-negative, comparable over layers."""

    def loss(self, progress: float, task_loss: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return None: nothing is penalised."""
        return None

    def after_backward(self, progress: float, step: int, scale: float) -> None:  # noqa: ARG002
        """Choose the shapes anew every `every` steps."""
        if step % self.every:
            return
        masks = allocate(
            self.layers, self.final_logits(), self.budget.relaxed(cubic(progress, self.ramp)), strict=False
        )
        with torch.no_grad():
            for name, layer in self.layers.items():
                # the logits of score +1 for kept taps and -1 for others choose exactly this shape
                layer.shape_logits.copy_(layer.family.logits_of(2 * masks[name] - 1))

    def final_logits(self) -> dict[str, Tensor]:
        """Return the current scores, written as logits of each layer's family."""
        return worths(self.layers, self.scores(), self.budget.wiring)


@LEARNERS.register("magnitude")
class MagnitudeLearner(ScheduleLearner):
    """A tap is worth its mean square weight, in shares of its layer's total."""

    def scores(self) -> dict[str, Tensor]:
        """Return mean squares, relative to the layer's total."""
        return magnitudes(self.layers)


@LEARNERS.register("sensitivity")
class SensitivityLearner(ScheduleLearner):
    """A tap is worth what the loss would change without it, to first order, per kernel of its group.

    The score is ``(sum over the group of W * dL/d(W * M))^2``, averaged over steps (Molchanov et al., CVPR 2019), which
    is comparable between layers as it stands.  Taps that are switched off keep being scored and may return.
    """

    momentum = 0.98
    warm_steps = 32
    """So that the averages mean something."""

    def __init__(self, layers: Layers, budget: Budget, *, ramp: float, every: int) -> None:
        super().__init__(layers, budget, ramp=ramp, every=every)
        self.averages = {name: torch.zeros_like(layer.group_masks()) for name, layer in layers.items()}
        for name, layer in layers.items():
            layer.tap_probe = torch.zeros_like(self.averages[name], requires_grad=True)

    def after_backward(self, progress: float, step: int, scale: float) -> None:
        """Take up this step's sensitivities, but for those of a step that overflowed, then choose."""
        squares = {}
        for name, layer in self.layers.items():
            assert layer.tap_probe is not None
            if layer.tap_probe.grad is not None:
                squares[name] = (layer.tap_probe.grad / scale).square()
                layer.tap_probe.grad = None
        if squares and torch.stack([square.sum() for square in squares.values()]).isfinite().all():
            for name, square in squares.items():
                self.averages[name].lerp_(square, 1 - self.momentum)
        if step >= self.warm_steps:
            super().after_backward(progress, step, scale)

    def scores(self) -> dict[str, Tensor]:
        """Return the averaged squares per kernel of the group, scaled to a mean of 1 over all layers."""
        per_kernel = {
            name: average / self.layers[name].channel_groups.sizes().to(average)[..., None, None]
            for name, average in self.averages.items()
        }
        mean = torch.cat([value.flatten() for value in per_kernel.values()]).mean()
        return {name: value / mean.clamp_min(torch.finfo(mean.dtype).tiny) for name, value in per_kernel.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"averages": self.averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the averages."""
        for name, average in self.averages.items():
            average.copy_(state["averages"][name])


@LEARNERS.register("blend")
class BlendLearner(SensitivityLearner):
    """Magnitudes rank the taps of a layer, sensitivities say what the layer is worth beside others.

    That ranks taps better than any other score that was tried (docs/decisions, 13), while magnitudes cannot tell how
    much the loss minds a layer: its inputs, and what comes after it, scale them.
    """

    def scores(self) -> dict[str, Tensor]:
        """Return the magnitudes, scaled in each layer to the mean of its sensitivities."""
        sensitivities = super().scores()
        return {
            name: size * (sensitivities[name].mean() / size.mean().clamp_min(torch.finfo(size.dtype).tiny))
            for name, size in magnitudes(self.layers).items()
        }

"""Other ways of learning shapes, to be compared with those of the package: gates that are sampled, and group lasso.

`ablation.py` puts them in place of a recipe's method.  Each is its paper's method on our channel groups: a group is one
tap of the kernels that share a shape, and the budget is the recipe's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hetcompress.budgets import Budget
from hetcompress.goals import ShapeSettings
from hetcompress.learners import ShapeLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pruning import magnitudes, worths
from hetcompress.schedules import linear, penalty_weight
from hetcompress.surgery import named_modules_of

__all__ = ["GroupLasso", "HardConcrete", "group_lasso", "hard_concrete"]


class HardConcrete(ShapeLearner):
    """L0 regularisation: a random gate for each group, which is exactly 0 or 1 most of the time.

    The gates are those of Louizos et al., arXiv 1712.01312, equations 10 to 12; the expected cost is led to the budget
    by the augmented Lagrangian of Wang et al., arXiv 1910.04732, whose target falls linearly.

    Args:
        layers: The learnable layers.
        budget: What may be left at the end.
        ramp: Share of stage 1 after which the whole budget applies.
    """

    trains_logits = False
    temperature, low, high = 2 / 3, -0.1, 1.1
    open_at_first = 2.5
    """Logits of the gates: 97 % of them hold something."""
    learning_rate = 0.1
    """Of gates and multipliers, by Adam, as Wang et al. have it."""

    def __init__(self, layers: dict[str, LearnableHetConv2d], budget: Budget, *, ramp: float) -> None:
        self.layers, self.budget, self.ramp = layers, budget, ramp
        self.gates = {
            name: torch.full_like(layer.group_masks(), self.open_at_first, requires_grad=True)
            for name, layer in layers.items()
        }
        self.multipliers = torch.zeros(2, requires_grad=True)
        self.descent = torch.optim.Adam(self.gates.values(), lr=self.learning_rate)
        self.ascent = torch.optim.Adam([self.multipliers], lr=self.learning_rate, maximize=True)

    def stretched(self, concrete: Tensor) -> Tensor:
        """Return the gates of numbers in (0, 1): their ends are cut, so that 0 and 1 come about."""
        return (concrete * (self.high - self.low) + self.low).clamp(0, 1)

    def before_forward(self, progress: float) -> None:  # noqa: ARG002
        """Sample the gates."""
        for name, layer in self.layers.items():
            noise = torch.rand_like(self.gates[name]).clamp(1e-6, 1 - 1e-6).logit()
            layer.tap_probe = self.stretched(torch.sigmoid((noise + self.gates[name]) / self.temperature)) - 1

    def kept(self) -> Tensor:
        """Return the expected share of the cost of the converted layers."""
        shift = self.temperature * math.log(-self.low / self.high)
        costs, total = [], 0.0
        for name, layer in self.layers.items():
            sizes = layer.channel_groups.sizes().to(self.gates[name])
            unit = self.budget.unit_costs[name]
            costs.append(unit * (torch.sigmoid(self.gates[name] - shift).sum((-2, -1)) * sizes).sum())
            total += unit * layer.weight.numel()
        return torch.stack(costs).sum() / total

    def loss(self, progress: float, task_loss: Tensor) -> Tensor:  # noqa: ARG002
        """Return the Lagrangian's terms."""
        wanted = 1 - linear(progress, self.ramp) * (1 - self.budget.share)
        excess = self.kept() - wanted
        return self.multipliers[0] * excess + self.multipliers[1] * excess.square()

    def after_backward(self, progress: float, step: int, scale: float) -> None:  # noqa: ARG002
        """Move gates and multipliers; between steps, gates are what evaluation takes: without noise."""
        for optimizer in (self.descent, self.ascent):
            optimizer.step()
            optimizer.zero_grad()
        for name, layer in self.layers.items():
            layer.tap_probe = self.stretched(torch.sigmoid(self.gates[name].detach())) - 1

    def final_logits(self) -> dict[str, Tensor]:
        """Return how likely each group is to be open."""
        likely = {name: torch.sigmoid(gate.detach()) for name, gate in self.gates.items()}
        return worths(self.layers, likely, self.budget.wiring)


class GroupLasso(ShapeLearner):
    """Sparsity by the sum of norms of groups (Wen et al., arXiv 1608.03665); at the end the largest stay.

    The penalty is scaled as LHC scales its own: it rises to four times the first task loss for the source's weights.

    Args:
        layers: The learnable layers.
        budget: What may be left at the end.
        ramp: The penalty rises over half of this share of stage 1.
        calibration: Share of stage 1 whose mean task loss scales the penalty.
    """

    trains_logits = False

    def __init__(
        self, layers: dict[str, LearnableHetConv2d], budget: Budget, *, ramp: float, calibration: float
    ) -> None:
        self.layers, self.budget, self.ramp, self.calibration = layers, budget, ramp, calibration
        self.losses: list[float] = []
        self.at_first = float(self.norms().detach())

    def norms(self) -> Tensor:
        """Return the sum of the norms of all groups, those of large groups weighing more."""
        sums = []
        for layer in self.layers.values():
            groups = layer.channel_groups
            squares = groups.total(layer.weight.square()).clamp_min(1e-12)
            sums.append((squares * groups.sizes().to(squares)[..., None, None]).sqrt().sum())
        return torch.stack(sums).sum()

    def loss(self, progress: float, task_loss: Tensor) -> Tensor | None:
        """Return the weighted penalty; None while the first task loss is being measured."""
        if progress < self.calibration or not self.losses:
            self.losses.append(float(task_loss.detach()))
            return None
        weight = penalty_weight(
            progress - self.calibration, first_loss=sum(self.losses) / len(self.losses), maximum=self.at_first,
            warmup=self.ramp / 2,
        )  # fmt: skip
        return weight * self.norms()

    def after_backward(self, progress: float, step: int, scale: float) -> None:
        """Do nothing: the optimiser shrinks the groups."""

    def final_logits(self) -> dict[str, Tensor]:
        """Return what magnitudes make groups worth."""
        return worths(self.layers, magnitudes(self.layers), self.budget.wiring)


def hard_concrete(
    model: nn.Module, shapes: ShapeSettings, budget: Budget, _image_size: tuple[int, int, int]
) -> HardConcrete:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    return HardConcrete(named_modules_of(model, LearnableHetConv2d), budget, ramp=shapes.ramp)


def group_lasso(
    model: nn.Module, shapes: ShapeSettings, budget: Budget, _image_size: tuple[int, int, int]
) -> GroupLasso:
    """Return the learner, as `hetcompress.goals.learner_of` does."""
    layers = named_modules_of(model, LearnableHetConv2d)
    return GroupLasso(layers, budget, ramp=shapes.ramp, calibration=shapes.calibration)

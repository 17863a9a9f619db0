"""What is aimed at, and how shapes are learned on the way: plain settings, and the objects they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from hetcompress.budgets import Budget, check_density, check_ratio
from hetcompress.cost import LayerCost, layer_macs
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.graphs import evaluating
from hetcompress.learners import LEARNERS, PenaltyLearner, ScheduleLearner, ShapeLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties import PENALTIES
from hetcompress.surgery import named_modules_of
from hetcompress.wiring import Wiring

__all__ = ["DEFAULT_MAC_RATIO", "OPTIONS", "ShapeSettings", "budget_of", "learner_of"]

DEFAULT_MAC_RATIO = 2.0
"""The target when none is given."""

OPTIONS = {"density": "--density", "MAC ratio": "--mac-ratio", "time ratio": "--latency-ratio"}
"""How a target of each unit is given."""

FITTING = {"density": "density", "MAC ratio": "macs", "time ratio": "latency"}
"""The penalty of each unit."""


@dataclasses.dataclass(frozen=True)
class ShapeSettings:
    """How shapes are learned.  Plain values: they are written into the run folder as they are.

    Without any target, learnable shapes go to `DEFAULT_MAC_RATIO`, and a fixed pattern is kept as it is.  A density
    and a MAC ratio may be given together; then both hold.

    Attributes:
        density: Target: kept over all weights of the converted layers; or None.
        mac_ratio: Target: dense over kept MACs of the whole model; or None.
        latency_ratio: Target: dense over expected time of the whole model; or None.
        method: "blend", "sensitivity" or "magnitude" (schedules over scores) or "penalty" (LHC's trained logits).
        penalty: Of method "penalty": "density", "macs" or "latency"; None takes the one that fits the target.
        stage1: Share of the steps that stage 1 has; None takes `hetcompress.schedules.stage1_share` of the target.
        ramp: Share of stage 1 over which schedules tighten; penalty and masks are phased in over half of it.
        calibration: Of method "penalty": share of stage 1 whose mean task loss gives the penalty its weight.
        every: Steps between two choices of a schedule.
        recalibration: Batches from which batch-norm statistics are measured after pruning.
    """

    density: float | None = None
    mac_ratio: float | None = None
    latency_ratio: float | None = None
    method: str = "blend"
    penalty: str | None = None
    stage1: float | None = None
    ramp: float = 0.95
    calibration: float = 0.1
    every: int = 16
    recalibration: int = 40

    def __post_init__(self) -> None:
        targets = {OPTIONS[unit]: value for unit, value in self.targets.items()}
        given = [option for option, value in targets.items() if value is not None]
        if len(given) > 1 and (self.latency_ratio is not None or self.method == "penalty"):
            raise UsageError(
                "target",
                expected=f"one of {', '.join(targets)}, or --density with --mac-ratio (not with --method penalty)",
                found=" and ".join(given) + (f" with --method {self.method}" if self.latency_ratio is None else ""),
                fix="keep the one that counts",
            )
        for unit, value in self.targets.items():
            if value is not None:
                (check_density if unit == "density" else check_ratio)(OPTIONS[unit], value)
        for option, share, ok in (
            ("--stage1", self.stage1, self.stage1 is None or 0 < self.stage1 < 1),
            ("--ramp", self.ramp, 0 < self.ramp <= 1),
            ("--calibration", self.calibration, 0 < self.calibration < 1),
        ):
            if not ok:
                bound = "]" if option == "--ramp" else ")"
                raise UsageError(option, expected=f"a number in (0, 1{bound}", found=str(share))
        if self.every < 1 or self.recalibration < 0:
            raise UsageError(
                "shape settings", expected="every of at least 1, recalibration of at least 0",
                found=f"{self.every}, {self.recalibration}",
            )  # fmt: skip
        LEARNERS[self.method]
        self.refuse_without_penalty("--penalty", given=self.penalty is not None)
        self.refuse_without_penalty("--calibration", given=self.calibration != ShapeSettings.calibration)
        if self.penalty is not None:
            option = OPTIONS[PENALTIES[self.penalty].unit]
            if option not in (given or ["--mac-ratio"]):
                raise UsageError(
                    f"--penalty {self.penalty}", expected=f"a target given by {option}", fix=f"use {option}"
                )

    def refuse_without_penalty(self, option: str, *, given: bool) -> None:
        """Raise if an option is given that only method "penalty" knows, beside another method."""
        if given and self.method != "penalty":
            raise UsageError(
                option, expected="--method penalty beside it", found=f"--method {self.method}",
                fix=f"add --method penalty, or leave {option} out",
            )  # fmt: skip

    @property
    def targets(self) -> dict[str, float | None]:
        """Return what is asked, by unit."""
        return {"density": self.density, "MAC ratio": self.mac_ratio, "time ratio": self.latency_ratio}

    @property
    def has_target(self) -> bool:
        """Whether anything is asked; else `budget_of` takes the default."""
        return any(value is not None for value in self.targets.values())


def budget_of(model: nn.Module, shapes: ShapeSettings, image_size: tuple[int, int, int]) -> Budget:
    """Return the target as a budget of `model`, a converted one.

    Raises:
        NothingToDoError: Nothing in the model can be learned.
        UsageError: The target makes no sense, or is one of time, which only a measurement turns into a budget.
    """
    layers = named_modules_of(model, LearnableHetConv2d)
    if not layers:
        raise NothingToDoError(
            "nothing to learn", expected="a converted model", found="no learnable layer", fix="convert it first"
        )
    if not shapes.has_target and not any(layer.family.learnable for layer in layers.values()):
        kept = sum(float(layer.kept_weights()) for layer in layers.values())
        return Budget.of_density(layers, kept / sum(layer.weight.numel() for layer in layers.values()))
    weights = None if shapes.density is None else Budget.of_density(layers, shapes.density)
    if weights is not None and shapes.mac_ratio is None:
        return weights
    if shapes.latency_ratio is not None:
        raise UsageError("target --latency-ratio", expected="a budget from `hetcompress.planning.aim`", found="none")
    example = _example(layers, image_size)
    macs = layer_macs(model, example)
    beside = {name: float(cost.dense) for name, cost in macs.items() if name not in layers}
    with evaluating(model):
        wiring = Wiring.of(model, example)
    budget = Budget.of_mac_ratio(
        layers, _positions(layers, macs), sum(cost.dense for cost in macs.values()),
        shapes.mac_ratio or DEFAULT_MAC_RATIO, beside=beside, wiring=wiring,
    )  # fmt: skip
    return dataclasses.replace(budget, also=weights)


def _example(layers: Mapping[str, LearnableHetConv2d], image_size: tuple[int, int, int]) -> torch.Tensor:
    """Return an empty image where the model is."""
    return torch.zeros(1, *image_size, device=next(iter(layers.values())).weight.device)


def _positions(layers: Mapping[str, LearnableHetConv2d], macs: Mapping[str, LayerCost]) -> dict[str, int]:
    """Return how often each layer applies its kernels to one image."""
    return {name: macs[name].dense // layer.weight.numel() for name, layer in layers.items()}


def learner_of(
    model: nn.Module, shapes: ShapeSettings, budget: Budget, image_size: tuple[int, int, int]
) -> ShapeLearner:
    """Return what stage 1 does beside training the weights of `model`, a converted one."""
    layers = named_modules_of(model, LearnableHetConv2d)
    kind = LEARNERS[shapes.method]
    if issubclass(kind, ScheduleLearner):
        return kind(layers, budget, ramp=shapes.ramp, every=shapes.every)
    costs: Mapping[str, float] = budget.unit_costs
    if budget.unit != "time ratio":  # LHC's penalty on density looks at MACs too
        costs = _positions(layers, layer_macs(model, _example(layers, image_size)))
    penalty = PENALTIES[shapes.penalty or FITTING[budget.unit]](budget.share, costs)
    return PenaltyLearner(layers, penalty, warmup=shapes.ramp / 2, calibration=shapes.calibration)

"""What is aimed at, and how shapes are learned on the way: plain settings, and the objects they stand for."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from hetcompress.budgets import Budget
from hetcompress.cost import layer_macs
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.learners import LEARNERS, MagnitudeLearner, PenaltyLearner, SensitivityLearner, ShapeLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties import PENALTIES
from hetcompress.surgery import named_modules_of

__all__ = ["ShapeSettings", "budget_of", "learner_of"]


@dataclasses.dataclass(frozen=True)
class ShapeSettings:
    """How shapes are learned.  Plain values: they are written into the run folder as they are.

    Attributes:
        density: Target: kept over all weights of the converted layers; or None.
        mac_ratio: Target: dense over kept MACs of the whole model; or None.
        method: "sensitivity" or "magnitude" (schedules over scores) or "penalty" (LHC's trained logits).
        penalty: Of method "penalty": "density" or "macs"; None takes the one that fits the target.
        stage1: Share of the steps that stage 1 has.
        ramp: Share of stage 1 over which schedules tighten, or penalty and masks are phased in.
        every: Steps between two choices of a schedule.
        recalibration: Batches from which batch-norm statistics are measured after pruning.
    """

    density: float | None = None
    mac_ratio: float | None = None
    method: str = "sensitivity"
    penalty: str | None = None
    stage1: float = 0.16
    ramp: float = 0.95
    every: int = 16
    recalibration: int = 40

    def __post_init__(self) -> None:
        if (self.density is None) == (self.mac_ratio is None):
            raise UsageError("target", expected="one of --density and --mac-ratio", found="both or none")
        if not 0 < self.stage1 < 1:
            raise UsageError("--stage1", expected="a number in (0, 1)", found=str(self.stage1))
        if not 0 < self.ramp <= 1:
            raise UsageError("--ramp", expected="a number in (0, 1]", found=str(self.ramp))
        if self.every < 1 or self.recalibration < 0:
            raise UsageError("--every and --recalibration", expected="positive integers")
        LEARNERS[self.method]
        if self.penalty is not None:
            unit = PENALTIES[self.penalty].unit
            option = "--density" if unit == "density" else "--mac-ratio"
            if (unit == "density") != (self.density is not None):
                raise UsageError(
                    f"--penalty {self.penalty}", expected=f"a target given by {option}", fix=f"use {option}"
                )


def budget_of(model: nn.Module, shapes: ShapeSettings, image_size: tuple[int, int, int]) -> Budget:
    """Return the target as a budget of `model`, a converted one."""
    layers = named_modules_of(model, LearnableHetConv2d)
    if not layers:
        raise NothingToDoError("nothing to learn", expected="a converted model", found="no learnable layer")
    if shapes.density is not None:
        return Budget.of_density(layers, shapes.density)
    assert shapes.mac_ratio is not None
    macs = layer_macs(model, torch.zeros(1, *image_size))
    positions = {name: macs[name].dense // layer.weight.numel() for name, layer in layers.items()}
    total = sum(layer.dense for layer in macs.values())
    return Budget.of_mac_ratio(layers, positions, total, shapes.mac_ratio)


def learner_of(
    model: nn.Module, shapes: ShapeSettings, budget: Budget, image_size: tuple[int, int, int]
) -> ShapeLearner:
    """Return what stage 1 does beside training the weights of `model`, a converted one."""
    layers = named_modules_of(model, LearnableHetConv2d)
    if shapes.method == "magnitude":
        return MagnitudeLearner(layers, budget, ramp=shapes.ramp, every=shapes.every)
    if shapes.method == "sensitivity":
        return SensitivityLearner(layers, budget, ramp=shapes.ramp, every=shapes.every)
    macs = layer_macs(model, torch.zeros(1, *image_size))
    positions = {name: macs[name].dense // layer.weight.numel() for name, layer in layers.items()}
    penalty = PENALTIES[shapes.penalty or ("density" if shapes.density is not None else "macs")]
    return PenaltyLearner(layers, penalty(budget.share, positions), warmup=shapes.ramp / 2, calibration=0.1)

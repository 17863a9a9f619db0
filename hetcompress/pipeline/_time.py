"""Targets of time in a run folder: the budget that was measured, and what the result takes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from hetcompress.artifacts import RunFolder
from hetcompress.budgets import Budget
from hetcompress.planning import Aim, PlanSettings, TimeRatio, aim, time_ratio

__all__ = ["aimed", "measured_budget", "timed"]

STAGE = "aim"
"""Under which the budget stands in run.json: prices in milliseconds by layer, and what does not depend on shapes."""


def aimed(folder: RunFolder, converted: nn.Module, ratio: float, plan: PlanSettings, logits: dict[str, Tensor]) -> Aim:
    """Find the budget of time of a run, and write it down."""
    found = aim(folder.dense_model(), converted, torch.zeros(1, *folder.input_spec.size), ratio, plan, logits)
    folder.record(STAGE, {"plan": dataclasses.asdict(plan), "budget": dataclasses.asdict(found.budget)})
    return found


def measured_budget(folder: RunFolder, ratio: float, plan: PlanSettings) -> Budget | None:
    """Return the budget that an interrupted run of the same target was started with; None where there is none.

    A resumed run takes up the very same budget: measured again, it would differ by noise.
    """
    recorded = folder.stage(STAGE) or {}
    if not folder.checkpoint.exists() or recorded.get("plan") != dataclasses.asdict(plan):
        return None
    budget = Budget(**recorded["budget"])
    return budget if budget.target == ratio else None


def timed(folder: RunFolder, pruned: nn.Module, budget: Budget, plan: PlanSettings) -> TimeRatio:
    """Measure the pruned model of a run as a whole."""
    return time_ratio(folder.dense_model(), pruned, torch.zeros(1, *folder.input_spec.size), budget, plan)

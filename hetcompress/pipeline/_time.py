"""Targets of time in a run folder: the budget that was measured, and what the result takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hetcompress.artifacts import RunFolder
from hetcompress.budgets import Budget
from hetcompress.comparisons import Comparison
from hetcompress.errors import InputError, NothingToDoError, UsageError
from hetcompress.graphs import evaluating
from hetcompress.kernels import available
from hetcompress.nn import LearnableHetConv2d
from hetcompress.planning import Aim, PlanSettings, TimeRatio, aim, time_ratio
from hetcompress.pruning import prune, worths
from hetcompress.surgery import named_modules_of
from hetcompress.wiring import Wiring

__all__ = ["aimed", "aimed_at", "as_aimed", "measured_budget", "not_met_now", "pruned_to_time", "timed"]

RUNS_IN = {"ort-cpu": "onnxruntime", "torch-cpu": "torch"}
"""What `report` compares times in, by the runtime of a target."""

BEFORE, AFTER = "aim", "aim after stage 1"
"""Under which budgets stand in run.json: prices in milliseconds by layer, and what does not depend on shapes."""


def aimed(
    folder: RunFolder, converted: nn.Module, ratio: float, plan: PlanSettings, scores: Mapping[str, Tensor],
    announce: Callable[[str], None],
) -> Aim:  # fmt: skip
    """Find the budget of time of a run by the scores of taps, and write it down."""
    wiring, example = _wiring(folder, converted), torch.zeros(1, *folder.input_spec.size)
    logits = worths(named_modules_of(converted, LearnableHetConv2d), scores, wiring)
    found = aim(folder.dense_model(), converted, example, ratio, plan, logits, wiring=wiring, announce=announce)
    folder.manifest["stages"].pop(AFTER, None)
    folder.record(BEFORE, {"plan": dataclasses.asdict(plan), "budget": found.budget.to_json()})
    return found


def as_aimed(folder: RunFolder, plan: PlanSettings) -> PlanSettings:
    """Return a plan with our kernel, or without it, as in the plans of the run's target of time.

    What was asked for was reached that way.  A plan that says itself whether it may have the kernel stays as it is, and
    so does one of a run without such a target.
    """
    reached = _reached(folder)
    if reached is None or plan.kernels is not None or plan.plan == "macs":
        return plan
    kernels = bool(reached[1].kernels)
    return plan if kernels and not available()[0] else dataclasses.replace(plan, kernels=kernels)


def aimed_at(run: Path) -> PlanSettings | None:
    """Return with which runtime, batch size and threads the target of time of a run was measured.

    Args:
        run: The run folder.

    Returns:
        None for a run whose shapes have no such target.

    Raises:
        InputError: There is no run, or it is broken.
    """
    reached = _reached(RunFolder.open(run))
    return None if reached is None else reached[1]


def not_met_now(folder: RunFolder, latency: Sequence[Comparison]) -> tuple[str, ...]:
    """Return in words where the same is measured as the run's target of time was, and falls short of it."""
    reached = _reached(folder)
    if reached is None:
        return ()
    time, plan = reached
    place = (RUNS_IN.get(plan.target), plan.batch, plan.threads)
    here = [item for item in latency if (item.compact.runtime, item.compact.batch, item.compact.threads) == place]
    return tuple(
        f"the time ratio {time.asked:g} that was asked for is {item.ratio:.3g} now; {time.measured:.3g} was measured "
        f"before ({place[0]}, batch {plan.batch}, threads {plan.threads})"
        for item in here
        if dataclasses.replace(time, measured=item.ratio, low=item.ratio_low, high=item.ratio_high).missed
    )


def _reached(folder: RunFolder) -> tuple[TimeRatio, PlanSettings] | None:
    stage = folder.stage("finetune") or {}
    if not stage or stage.get("stage") == "fine":  # the shapes are those of the pruning
        stage = folder.stage("prune") or {}
    recorded = stage.get("time_ratio")
    try:
        return None if recorded is None else (TimeRatio(**recorded), PlanSettings.from_json(recorded["settings"]))
    except (TypeError, UsageError) as error:
        raise InputError(
            f"run folder {folder.path}", expected="a target of time with its runtime", found=str(error),
            fix="prune or finetune again",
        ) from None  # fmt: skip


def _wiring(folder: RunFolder, model: nn.Module) -> Wiring:
    with evaluating(model):
        return Wiring.of(model, torch.zeros(1, *folder.input_spec.size))


def measured_budget(folder: RunFolder, converted: nn.Module, ratio: float, plan: PlanSettings) -> Budget | None:
    """Return the budget that an interrupted run of the same target was started with; None where there is none.

    A resumed run takes up the very same budget: measured again, it would differ by noise.
    """
    recorded = folder.stage(BEFORE) or {}
    if not folder.checkpoint.exists() or recorded.get("plan") != dataclasses.asdict(plan):
        return None
    budget = Budget(**recorded["budget"])
    return dataclasses.replace(budget, wiring=_wiring(folder, converted)) if budget.target == ratio else None


def pruned_to_time(
    folder: RunFolder, budget: Budget, plan: PlanSettings, learned: nn.Module, logits: Mapping[str, Tensor]
) -> nn.Module:
    """Prune what stage 1 has learned, which spreads over layers otherwise than magnitudes did, to the measured time."""
    example = torch.zeros(1, *folder.input_spec.size)
    try:
        found = aim(
            folder.dense_model(), learned, example, budget.target, plan, logits, budget.unit_costs, budget.wiring
        )
    except NothingToDoError:  # the nearest there is, rather than a training for nothing; the result says so
        return prune(learned, budget, logits=logits, strict=False)
    folder.record(AFTER, {"plan": dataclasses.asdict(plan), "budget": found.budget.to_json()})
    return found.pruned


def timed(folder: RunFolder, pruned: nn.Module, budget: Budget, plan: PlanSettings) -> TimeRatio:
    """Measure the pruned model of a run as a whole."""
    last = folder.stage(AFTER)
    budget = budget if last is None else Budget(**last["budget"], wiring=budget.wiring)
    return time_ratio(folder.dense_model(), pruned, torch.zeros(1, *folder.input_spec.size), budget, plan)

"""Schedules: pure functions of the progress of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["cubic", "learning_rate_factor", "linear", "penalty_weight", "stage1_share"]

FINAL_PENALTY = 4.0
"""LHC's released code ramps the penalty to four times the first epoch's task loss."""

ONE_CYCLE_START = 0.04
"""First over highest learning rate of the one-cycle schedule (torch's default is 1/25)."""

SHORTEST_STAGE1, LONGEST_STAGE1 = 0.3, 0.6
"""As measured at MAC ratios 2 and 5."""


def linear(progress: float, length: float) -> float:
    """Return 0 at progress 0 and 1 from `length` on."""
    return 1.0 if length <= 0 else min(1.0, max(0.0, progress / length))


def cubic(progress: float, length: float) -> float:
    """Return 1 - (1 - t)^3, which falls fast at first and gently at the end (Zhu and Gupta, arXiv 1710.01878)."""
    return 1.0 - (1.0 - linear(progress, length)) ** 3


def learning_rate_factor(
    progress: float, *, sched: str, warmup: float, milestones: Sequence[float] = (), decay_rate: float = 0.1
) -> float:
    """Return the learning rate over its maximum.

    Args:
        progress: Steps done over all steps, 0 to 1.
        sched: "cosine" (linear warm-up from 0, then half a cosine to 0), "onecycle" (half a cosine up from 1/25, half a
            cosine down to 0), "multistep" (times `decay_rate` at each milestone) or "constant", both after the warm-up.
        warmup: Share of the run that warms up; where "onecycle" peaks.
        milestones: Of "multistep", as shares of the run.
        decay_rate: Of "multistep".
    """
    if progress < warmup:
        rise = linear(progress, warmup)
        if sched == "onecycle":
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * rise)) / 2
        return rise
    if sched == "constant":
        return 1.0
    if sched == "multistep":
        return float(decay_rate ** sum(progress >= milestone for milestone in milestones))
    return (1 + math.cos(math.pi * (progress - warmup) / max(1e-9, 1 - warmup))) / 2


def stage1_share(kept: float) -> float:
    """Return the share of the steps that learn shapes: the less is to be kept, the more (docs/decisions/ 10).

    Args:
        kept: What may be kept of the converted layers, 0 to 1.
    """
    return min(LONGEST_STAGE1, max(SHORTEST_STAGE1, 0.9 - 1.5 * kept))


def penalty_weight(progress: float, *, first_loss: float, maximum: float, warmup: float) -> float:
    """Return the penalty's weight: ramped linearly to where its maximum is four times the first task loss.

    Args:
        progress: Steps of stage 1 since the first task loss is known, over all of them.
        first_loss: Mean task loss of the first epoch.
        maximum: The penalty of full kernels.
        warmup: Share of stage 1 over which the weight rises.
    """
    return FINAL_PENALTY * first_loss / maximum * linear(progress, warmup)

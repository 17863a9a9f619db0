"""Is a target too hard?  Said when shapes are fixed and recalibrated, before the long stage 2 is spent on it.

Stage 2 mends what pruning broke, but not all.  In the runs of `benchmarks/accuracy/ablation.jsonl` (ResNet-20), nets
that lost at most 6 % of their source's accuracy by then ended at most 1.6 points below it after two epochs with the
recipes' weight of features, and up to 3.4 below where features weighed more or runs were longer; those that lost more
ended at least 2.4 points below, nearly all of them four and more.  What is lost grows about as the logarithm of the
ratio (3.7 % at MAC ratio 2, 5.1 at 3, 8 at 5), so the limit may be expected at ``r ** (limit / lost)``.  That is known
of losses of 4 to 8 %; of larger ones, half of the logarithm is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hetcompress.budgets import Budget
from hetcompress.evaluation import Accuracy

__all__ = ["TooHard", "too_hard", "too_hasty"]

LIMIT = 0.06
"""Share of the source's accuracy that may be lost without a note."""
FURTHEST = 0.5
"""Of the logarithm of a target: what is named as the next easier keeps at least so much of it."""
SHORTEST = 2.0
"""Epochs of the shortest runs that the limit is known of."""

BEFORE, AFTER = "source", "after recalibration"


@dataclasses.dataclass(frozen=True)
class TooHard:
    """A target after which little is left of the source's accuracy.

    Attributes:
        unit: "density", "MAC ratio" or "time ratio".
        target: As it was asked for.
        easier: The next easier target of the same unit that is worth a try.
        lost: Share of the source's accuracy that was gone after recalibration.
        epochs: How long the whole run is.
    """

    unit: str
    target: float
    easier: float
    lost: float
    epochs: float = SHORTEST

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> TooHard:
        """Build it from what a run folder has kept, also of an earlier version."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in said.items() if name in known})

    def __str__(self) -> str:
        said = (
            f"{self.unit} {self.target:g} is hard for this model: after recalibration {self.lost:.0%} of the source's "
            "accuracy is gone, and training the weights may not bring it all back; "
        )
        if self.epochs < SHORTEST:
            return (
                f"{said}{self.epochs:.2g} epochs are too few to tell: give it more first (--epochs, --max-steps), "
                f"then finer groups, or {self.unit} {self.easier:.3g}"
            )
        return (
            f"{said}next easier to try: {self.unit} {self.easier:.3g} (in another run, or with --resume never), or "
            "more epochs, or finer groups"
        )


def too_hard(budget: Budget, accuracies: Mapping[str, Accuracy], epochs: float) -> TooHard | None:
    """Return what is to be said of a target, or None where it is not too hard, or nothing was measured.

    Args:
        budget: What was pruned to.
        accuracies: What fine-tuning has measured, by its name.
        epochs: How long the whole run is, both stages.
    """
    if BEFORE not in accuracies or AFTER not in accuracies or accuracies[BEFORE].correct == 0:
        return None
    lost = 1 - accuracies[AFTER].percent / accuracies[BEFORE].percent
    if lost <= LIMIT or budget.target == 1:  # of a target that takes nothing away no easier one is left
        return None
    easier = budget.target ** max(LIMIT / lost, FURTHEST)
    return TooHard(budget.unit, budget.target, easier, lost, epochs)


def too_hasty(step: int, method: str) -> str:
    """Return what is to be said where stage 1 ends after this step, before the method has chosen shapes in it."""
    return (
        f"stage 1 ends after step {step}, before --method {method} first chooses shapes: all are chosen at once, which "
        "costs accuracy; train longer (--epochs, --max-steps), or give stage 1 more of it by --stage1"
    )

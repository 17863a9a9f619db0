"""Fine-tune: learn shapes and weights (stage 1), prune to the target, recalibrate, train weights alone (stage 2)."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hetcompress.allocation import check_reachable
from hetcompress.budgets import Budget
from hetcompress.checkpointing import Checkpoints, Interruption
from hetcompress.cost import layer_macs
from hetcompress.difficulty import TooHard, too_hard, too_hasty
from hetcompress.errors import UsageError
from hetcompress.evaluation import EVALUATION_BATCH, Accuracy, evaluate
from hetcompress.goals import ShapeSettings, budget_of, learner_of
from hetcompress.kept_costs import deciding
from hetcompress.learners import LEARNERS, ShapeLearner
from hetcompress.lowering import fold_batch_norms
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.pruning import prune_nearest, pruned_skeleton
from hetcompress.recalibration import recalibrate_
from hetcompress.reporters import Reporter, Silent
from hetcompress.schedules import stage1_share
from hetcompress.surgery import named_modules_of
from hetcompress.training import Batches, Trainer, TrainSettings

__all__ = ["Finetuned", "Pruner", "TrainingData", "finetune"]


@runtime_checkable
class TrainingData(Batches, Protocol):
    """What fine-tuning needs of a data source; see `hetcompress.data.DataSource`."""

    image_size: tuple[int, int, int]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield test batches."""


Pruner = Callable[[nn.Module, Mapping[str, Tensor]], nn.Module]
"""A learnable model on the CPU, in eval mode, and what its shapes are worth, to the pruned model."""


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A fine-tuned, pruned model.

    Attributes:
        model: With `HetConv2d` layers, in eval mode, on the CPU.
        accuracies: What was measured on the way, in order, by its name.
        epochs: The lines of metrics.jsonl.
        too_hard: What is to be said of the target, if anything.
    """

    model: nn.Module
    accuracies: dict[str, Accuracy]
    epochs: list[dict[str, Any]]
    too_hard: TooHard | None = None


class _Run:
    """The state of one fine-tuning run, from its first step or a checkpoint to the end."""

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        data: TrainingData,
        train: TrainSettings,
        shapes: ShapeSettings,
        *,
        budget: Budget | None,
        pruner: Pruner | None,
        checkpoints: Checkpoints | None,
        first_step: int,
        reporter: Reporter,
        device: torch.device,
        interruption: Interruption,
    ) -> None:
        self.data, self.train, self.shapes, self.reporter, self.device = data, train, shapes, reporter, device
        self.checkpoints, self.interruption = checkpoints, interruption
        self.model = self.placed(model)
        # without its batch norms the teacher computes the same in less time
        folded = fold_batch_norms(teacher, torch.zeros(1, *data.image_size)) if train.has_teacher else teacher
        self.teacher = self.placed(folded)
        self.steps_per_epoch = data.train_size // train.batch_size
        if self.steps_per_epoch == 0:
            raise UsageError(
                "--batch-size", expected=f"at most the {data.train_size} training images",
                found=str(train.batch_size), fix="pass a smaller one",
            )  # fmt: skip
        self.total = max(1, round(self.steps_per_epoch * train.epochs))
        self.total = min(self.total, train.max_steps or self.total)
        self.learnable = any(layer.family.learnable for layer in named_modules_of(model, LearnableHetConv2d).values())
        self.accuracies: dict[str, Accuracy] = {}
        self.epochs: list[dict[str, Any]] = []
        self.stage = 1 if named_modules_of(model, LearnableHetConv2d) else 2
        self.step = self.first_step = first_step
        self.trainer: Trainer
        self.learner: ShapeLearner | None = None
        self.budget, self.pruner = budget, pruner
        if budget is None and self.stage == 1:
            self.budget = budget_of(self.model, shapes, data.image_size)
            check_reachable(named_modules_of(self.model, LearnableHetConv2d), self.budget)
        share = shapes.stage1 or stage1_share(self.budget.share if self.budget is not None else 1.0)
        self.boundary = max(1, round(self.total * share)) if self.learnable else 0
        self.epoch_seconds = 0.0
        self.latest: Accuracy | None = None  # of the model as it is; None when it has changed since

    def placed(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model where, and in the memory order in which, training happens."""
        layout = torch.channels_last if self.train.channels_last else torch.contiguous_format
        new: nn.Module = copy.deepcopy(model).to(device=self.device, memory_format=layout)  # type: ignore[call-overload]
        return new

    def measure(self, when: str, model: nn.Module) -> None:
        """Measure the accuracy of `model` on the test images and tell it."""
        self.record(when, self.measured(model))

    def measured(self, model: nn.Module) -> Accuracy:
        """Return the accuracy of `model` on the test images."""
        batches = self.interruption.between(self.data.test_batches(EVALUATION_BATCH))
        return evaluate(model, batches, device=str(self.device))

    def record(self, when: str, accuracy: Accuracy) -> None:
        """Keep and tell an accuracy."""
        self.accuracies[when] = accuracy
        self.reporter.measured(when, accuracy)

    def enter_stage(self, stage: int) -> None:
        """Build the trainer of a stage around the current model."""
        self.stage = stage
        trains = stage == 1 and LEARNERS[self.shapes.method].trains_logits
        for layer in named_modules_of(self.model, LearnableHetConv2d).values():
            layer.shape_logits.requires_grad_(trains and layer.family.learnable)
        self.trainer = Trainer(
            self.model, self.data, self.train, total_steps=self.total, teacher=self.teacher, device=self.device
        )
        if stage == 1:
            assert self.budget is not None
            self.learner = learner_of(self.model, self.shapes, self.budget, self.data.image_size)
        else:
            self.learner = None

    def save(self) -> None:
        """Write the complete state, so that a later run goes on from here."""
        if self.checkpoints is None:
            return
        self.interruption.saved = True
        self.checkpoints.save(
            {
                "stage": self.stage,
                "step": self.step,
                "trainer": self.trainer.state_dict(),
                "learner": self.learner.state_dict() if self.learner is not None else {},
                "accuracies": {name: dataclasses.asdict(value) for name, value in self.accuracies.items()},
                "epochs": self.epochs,
                "epoch_seconds": self.epoch_seconds + self.trainer.seconds,
            }
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.interruption.saved = True
        self.accuracies = {name: Accuracy(**value) for name, value in state["accuracies"].items()}
        self.epochs, self.step = list(state["epochs"]), int(state["step"])
        self.epoch_seconds = float(state["epoch_seconds"])
        if state["stage"] == 2 and self.stage == 1:
            self.model = self.placed(pruned_skeleton(_plain(self.model)))
        self.enter_stage(int(state["stage"]))
        self.trainer.load_state_dict(state["trainer"])
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])

    @property
    def epoch_ends(self) -> bool:
        """Whether an epoch, or the run, ends with this step."""
        return self.step % self.steps_per_epoch == 0 or self.step == self.total

    def after_step(self, step: int) -> None:
        """Count, report, save and stop where it is due."""
        self.step, self.latest = step, None
        self.reporter.progressed(step, self.total, self.trainer.losses)
        every = self.checkpoints.every if self.checkpoints is not None else self.total
        if step % every == 0 or self.epoch_ends or step == self.boundary or self.interruption.requested:
            self.save()
        self.interruption.stop_if_requested()
        self.end_epoch()

    def end_epoch(self) -> None:
        """Write down the epoch that ends with this step, if one does and has not been written down."""
        step, done = self.step, self.epochs[-1]["step"] if self.epochs else self.first_step
        if step == done or not self.epoch_ends:
            return
        self.latest = accuracy = self.measured(self.trainer.best_model)
        seconds = self.epoch_seconds + self.trainer.seconds
        self.epoch_seconds = self.trainer.seconds = 0.0
        macs = layer_macs(self.model, torch.zeros(1, *self.data.image_size, device=self.device))
        converted = {**named_modules_of(self.model, LearnableHetConv2d), **named_modules_of(self.model, HetConv2d)}
        counted = converted or macs  # a net that was not converted has no other density than 1
        line = {
            "epoch": -(-step // self.steps_per_epoch),
            "step": step,
            "stage": self.stage,
            **{name: round(value, 6) for name, value in self.trainer.losses.items()},
            "density": sum(macs[n].kept for n in counted) / sum(macs[n].weights for n in counted),
            "mac_ratio": sum(m.dense for m in macs.values()) / sum(m.effective for m in macs.values()),
            "accuracy": round(accuracy.percent, 4),
            "test_loss": round(accuracy.loss, 6),
            "learning_rate": self.trainer.learning_rate(step - 1),
            "images_per_second": round((step - done) * self.train.batch_size / max(seconds, 1e-9), 1),
        }
        self.epochs.append(line)
        self.reporter.epoch(line)

    def prune(self) -> None:
        """Fix the shapes within the budget, then measure batch-norm statistics anew."""
        assert self.learner is not None
        assert self.budget is not None
        if self.trainer.ema is not None:
            self.model.load_state_dict(self.trainer.ema.module.state_dict())
        self.latest = None
        self.epoch_seconds += self.trainer.seconds
        self.measure("after stage 1", self.model)
        worths = {name: worth.cpu() for name, worth in self.learner.final_logits().items()}
        pruner = self.pruner or functools.partial(prune_nearest, self.budget, self.reporter.warn)
        self.model = self.placed(pruner(_plain(self.model), worths))
        self.measure("after pruning", self.model)
        if self.shapes.recalibration:
            self.recalibrate()
            self.measure("after recalibration", self.model)
        if self.verdict is not None:
            self.reporter.warn(str(self.verdict))

    @property
    def verdict(self) -> TooHard | None:
        """What is to be said of the target; nothing of a pattern that is fixed, or where the haste is to blame."""
        if not self.learnable or self.budget is None or self.hasty:
            return None
        decided = deciding(named_modules_of(self.model, HetConv2d), self.budget)
        return too_hard(decided, self.accuracies, self.total / self.steps_per_epoch)

    @property
    def hasty(self) -> bool:
        """Whether stage 1 ends before shapes are chosen in it."""
        every, prunes = self.shapes.every, self.budget is None or self.budget.share < 1
        first = every * math.ceil(LEARNERS[self.shapes.method].warm_steps / every)
        return self.learnable and prunes and self.boundary <= first

    def warn_of_haste(self) -> None:
        """Say it where stage 1 ends before shapes are chosen in it."""
        if self.hasty:
            self.reporter.warn(too_hasty(self.boundary, self.shapes.method))

    def recalibrate(self) -> None:
        """Measure batch-norm statistics on augmented training images, in an order that is not trained on."""
        untrained = math.ceil(self.train.epochs)
        batches = self.data.train_batches(self.train.batch_size, seed=self.train.seed, epoch=untrained)
        some = zip(self.interruption.between(batches), range(self.shapes.recalibration), strict=False)
        recalibrate_(self.model, (images.to(self.device) for (images, _), _number in some))

    def go(self) -> Finetuned:
        """Run to the end."""
        self.end_epoch()  # of a run that was stopped there
        if self.stage == 1:
            self.warn_of_haste()
            if self.step < self.boundary:
                self.trainer.run(
                    self.step, self.boundary, stage=(0, self.boundary), hook=self.learner, after_step=self.after_step
                )
            self.prune()
            self.enter_stage(2)
            self.save()
        self.trainer.run(
            self.step, self.total, stage=(self.boundary, self.total), hook=None, after_step=self.after_step
        )
        final = self.trainer.best_model
        self.record("after stage 2", self.latest or self.measured(final))
        return Finetuned(_plain(final), self.accuracies, self.epochs, self.verdict)


def _plain(model: nn.Module) -> nn.Module:
    """Return a copy as it was before it was placed, in eval mode."""
    return copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()


def finetune(
    model: nn.Module,
    teacher: nn.Module,
    data: TrainingData,
    *,
    train: TrainSettings,
    shapes: ShapeSettings,
    budget: Budget | None = None,
    pruner: Pruner | None = None,
    checkpoints: Checkpoints | None = None,
    first_step: int = 0,
    reporter: Reporter | None = None,
    device: str = "cpu",
) -> Finetuned:
    """Fine-tune a converted model to a target, or train the weights of a pruned one.

    Args:
        model: With learnable layers: both stages; without: stage 2.  Left alone.
        teacher: The dense source: baseline and, with ``train.has_teacher``, teacher.
        data: Where images come from.
        train: How weights are trained.
        shapes: Target, and how shapes are learned.
        budget: The target as a budget that can be reached, of time for example (`hetcompress.planning.aim`); None makes
            one of `shapes`.
        pruner: Prunes what stage 1 has learned; None prunes to the budget.
        checkpoints: Where the complete state is kept, and whether to go on from it; None keeps none.
        first_step: Steps of the run that were trained elsewhere, for a model without learnable layers.
        reporter: Hears how it goes.
        device: Where to train.

    Raises:
        UsageError: Settings that do not fit the data.
        InputError: A checkpoint of other settings stands in the way.
        NothingToDoError: The target cannot be reached.
        HetCompressError: The loss became infinite or not a number.
    """
    torch.manual_seed(train.seed)
    reporter = reporter or Silent()
    with Interruption(reporter.note) as interruption:
        run = _Run(
            model, teacher, data, train, shapes, budget=budget, pruner=pruner, checkpoints=checkpoints,
            first_step=first_step, reporter=reporter, device=torch.device(device), interruption=interruption,
        )  # fmt: skip
        state = None if checkpoints is None else checkpoints.load()
        if state is not None:
            run.restore(state)
            run.reporter.note(f"resumed at step {run.step} of {run.total}")
            if run.stage == 2:
                run.warn_of_haste()
            if run.stage == 2 and run.verdict is not None:
                run.reporter.warn(str(run.verdict))
        else:
            run.measure("source", run.placed(teacher))
            run.measure("converted" if run.stage == 1 else "pruned", run.model)
            run.enter_stage(run.stage)
        return run.go()

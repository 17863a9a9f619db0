"""The training loop, in the open: ``loss = task (+ distillation + features) + what the learner adds``.

One `Trainer` runs any span of steps.  Batches are a pure function of (seed, step) and everything else that moves is
part of `state_dict`, so a run that stops at any step goes on to the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hetcompress.distillation import Distillation
from hetcompress.errors import HetCompressError, UsageError
from hetcompress.machine import machine
from hetcompress.nn import LearnableHetConv2d
from hetcompress.schedules import learning_rate_factor
from hetcompress.surgery import named_modules_of

__all__ = ["AMP_DTYPES", "Batches", "Hook", "TrainSettings", "Trainer", "amp_dtype"]

AMP_DTYPES = ("auto", "float32", "bfloat16", "float16")
OPTIMISERS = ("sgd", "momentum", "adamw")
SCHEDULES = ("cosine", "onecycle", "multistep", "constant")
AVERAGING = 0.98
"""Momentum of the running losses that are shown while training."""


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How weights are trained.  Plain values: they are written into the run folder as they are.

    Attributes:
        epochs: Passes over the training data, both stages together; the last one may be a part.
        max_steps: Stop after this many steps at most (a smoke run); the schedules shrink with it.
        batch_size: Images per step.
        opt: "sgd" (Nesterov), "momentum" (SGD without that) or "adamw"; the names are timm's.
        lr: Highest learning rate.
        momentum: Of SGD.
        weight_decay: On weights; never on biases, norms or shape logits.
        sched: "cosine", "onecycle", "multistep" or "constant".
        warmup: Share of the run over which the learning rate rises.
        milestones: Of "multistep": the shares of the run after which the learning rate falls.
        decay_rate: Of "multistep": what it is multiplied by each time.
        smoothing: Label smoothing.
        distill: Weight of the distillation from scores, 0 to 1; the task loss has the rest.
        temperature: Of the distillation from scores.
        features: Weight of the distillation from what layers read, added to the rest; 0 is off.
        amp_dtype: "auto" takes bfloat16 where the device computes in it, else float32.
        channels_last: Keep images in the memory order that convolutions like best.
        clip_grad: Largest gradient norm; 0 leaves gradients alone.
        ema: Decay of the weight average that is evaluated and kept; 0 keeps the weights themselves.
        logit_lr: Learning rate of shape logits, relative to that of the weights.
        seed: Of data order, augmentation and everything random.
    """

    epochs: float = 3.5
    max_steps: int | None = None
    batch_size: int = 128
    opt: str = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    sched: str = "cosine"
    warmup: float = 0.1
    milestones: tuple[float, ...] = ()
    decay_rate: float = 0.1
    smoothing: float = 0.0
    distill: float = 0.9
    temperature: float = 4.0
    features: float = 30.0
    amp_dtype: str = "auto"
    channels_last: bool = True
    clip_grad: float = 0.0
    ema: float = 0.0
    logit_lr: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        def check(option: str, ok: bool, expected: str, value: object) -> None:
            if not ok:
                raise UsageError(f"--{option}", expected=expected, found=str(value))

        check("epochs", math.isfinite(self.epochs) and self.epochs > 0, "a positive number", self.epochs)
        check("max-steps", self.max_steps is None or self.max_steps >= 1, "an integer of at least 1", self.max_steps)
        check("batch-size", self.batch_size >= 2, "an integer of at least 2", self.batch_size)
        check("opt", self.opt in OPTIMISERS, ", ".join(OPTIMISERS), self.opt)
        check("sched", self.sched in SCHEDULES, ", ".join(SCHEDULES), self.sched)
        for milestone in self.milestones:
            check("milestone", 0 < milestone < 1, "shares of the run, in (0, 1)", milestone)
        stepped = self.sched == "multistep"
        check(
            "milestone",
            bool(self.milestones) == stepped,
            "at least one with --sched multistep, none otherwise",
            f"{' '.join(map(str, self.milestones)) or 'none'} with --sched {self.sched}",
        )
        check("amp-dtype", self.amp_dtype in AMP_DTYPES, " or ".join(AMP_DTYPES), self.amp_dtype)
        for name in ("lr", "temperature", "logit_lr", "decay_rate"):
            value = getattr(self, name)
            check(name.replace("_", "-"), math.isfinite(value) and value > 0, "a positive number", value)
        for name in ("weight_decay", "clip_grad", "features"):
            value = getattr(self, name)
            check(name.replace("_", "-"), math.isfinite(value) and value >= 0, "a number of at least 0", value)
        for name in ("momentum", "warmup", "smoothing", "ema"):
            value = getattr(self, name)
            check(name, 0 <= value < 1, "a number in [0, 1)", value)
        check("distill", 0 <= self.distill <= 1, "a number in [0, 1]", self.distill)
        check("seed", 0 <= self.seed < 2**63, "an integer from 0 to 2**63 - 1", self.seed)

    @property
    def has_teacher(self) -> bool:
        """Whether anything is distilled."""
        return self.distill > 0 or self.features > 0


@runtime_checkable
class Batches(Protocol):
    """What the trainer needs of a data source."""

    train_size: int

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch from number `start` on."""


@runtime_checkable
class Hook(Protocol):
    """What stage 1 adds to plain training; see `hetcompress.learners.ShapeLearner`."""

    def before_forward(self, progress: float) -> None:
        """Prepare the model for a step."""

    def loss(self, progress: float, task_loss: Tensor) -> Tensor | None:
        """Return an addition to the loss."""

    def after_backward(self, progress: float, step: int, scale: float) -> None:
        """Act on gradients; those of tensors that the optimiser does not own are `scale` times too large."""


def amp_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `name` means on `device`; "auto" takes bfloat16 only where hardware computes in it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    features: Collection[str] = ()
    if device.type == "cpu":
        told = getattr(torch.cpu, "get_capabilities", None)  # which torch 2.10 lacks
        features = machine().flags if told is None else [name for name, there in told().items() if there]
    return torch.float32 if {"avx512_bf16", "amx_bf16"}.isdisjoint(features) else torch.bfloat16


def _parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    logits = [layer.shape_logits for layer in named_modules_of(model, LearnableHetConv2d).values()]
    known = {id(logit) for logit in logits}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay, "scale": 1.0},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "scale": 1.0},
        {"params": [p for p in logits if p.requires_grad], "weight_decay": 0.0, "scale": settings.logit_lr},
    ]
    return [group for group in groups if group["params"]]


class Trainer:
    """Trains one model over spans of a run of `total_steps`.

    Args:
        model: Trained in place.
        data: Where batches come from.
        settings: How to train.
        total_steps: Steps of the whole run, both stages; the learning rate follows progress in it.
        teacher: The model to distil from, or None.
        device: Where to train; model and teacher must be there.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Batches,
        settings: TrainSettings,
        *,
        total_steps: int,
        teacher: nn.Module | None,
        device: torch.device,
    ) -> None:
        self.model, self.data, self.settings, self.device = model, data, settings, device
        self.total_steps = total_steps
        self.distillation = (
            Distillation(teacher, settings.temperature, features=settings.features > 0)
            if teacher is not None and settings.has_teacher
            else None
        )
        self.steps_per_epoch = data.train_size // settings.batch_size
        self.dtype = amp_dtype(settings.amp_dtype, device)
        groups = _parameter_groups(model, settings)
        self.optimizer: torch.optim.Optimizer
        if settings.opt == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        else:
            nesterov = settings.opt == "sgd" and settings.momentum > 0
            self.optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        average = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(model, multi_avg_fn=average) if settings.ema else None
        self.losses: dict[str, float] = {}
        self.seconds = 0.0

    @property
    def best_model(self) -> nn.Module:
        """The weight average where there is one, else the model."""
        return self.ema.module if self.ema is not None else self.model

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the whole run."""
        settings = self.settings
        factor = learning_rate_factor(
            step / self.total_steps, sched=settings.sched, warmup=settings.warmup, milestones=settings.milestones,
            decay_rate=settings.decay_rate,
        )  # fmt: skip
        return settings.lr * factor

    def run(
        self, first: int, last: int, *, stage: tuple[int, int], hook: Hook | None, after_step: Callable[[int], None]
    ) -> None:
        """Train steps `first` to `last` - 1 of the whole run.

        Args:
            first: The first step.
            last: One past the last step.
            stage: First and one-past-last step of the stage, which the hook's progress refers to.
            hook: What stage 1 adds.
            after_step: Called after each step with the number of steps done.

        Raises:
            HetCompressError: The loss is not finite.
        """
        self.model.train()
        step = first
        while step < last:
            epoch, start = divmod(step, self.steps_per_epoch)
            for images, labels in self.data.train_batches(
                self.settings.batch_size, seed=self.settings.seed, epoch=epoch, start=start
            ):
                if step >= last:
                    break
                began = time.perf_counter()
                self._step(step, images.to(self.device), labels.to(self.device), stage, hook)
                self.seconds += time.perf_counter() - began
                step += 1
                after_step(step)
                self.model.train()

    def _step(self, step: int, images: Tensor, labels: Tensor, stage: tuple[int, int], hook: Hook | None) -> None:
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step) * group["scale"]
        progress = (step - stage[0]) / max(1, stage[1] - stage[0])
        if hook is not None:
            hook.before_forward(progress)
        losses = self._losses(images, labels)
        weights = self._weights
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        penalty = hook.loss(progress, loss) if hook is not None else None
        total = loss if penalty is None else loss + penalty
        if not math.isfinite(float(total.detach())):
            raise HetCompressError(
                f"step {step}: the loss is {float(total.detach())}",
                fix="lower --lr, set --clip-grad 1, or use --amp-dtype float32",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        if hook is not None:
            hook.after_backward(progress, step - stage[0], self.scaler.get_scale())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self._remember({"loss": total, **losses, "penalty": penalty})

    @property
    def _weights(self) -> dict[str, float]:
        share = self.settings.distill if self.distillation is not None else 0.0
        return {"task": 1 - share, "distillation": share, "features": self.settings.features}

    def _losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return what is learned from the labels, from the teacher's scores, and from its features."""
        enabled = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=True) if enabled else contextlib.nullcontext():
            if self.distillation is None:
                scores = self.model(images)
                divergence = difference = scores.new_zeros(())
            else:
                scores, divergence, difference = self.distillation(self.model, images)
        task = F.cross_entropy(scores.float(), labels, label_smoothing=self.settings.smoothing)
        return {"task": task, "distillation": divergence, "features": difference}

    def _remember(self, values: dict[str, Tensor | None]) -> None:
        for name, value in values.items():
            number = 0.0 if value is None else float(value.detach())
            old = self.losses.get(name, number)
            self.losses[name] = AVERAGING * old + (1 - AVERAGING) * number

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "losses": dict(self.losses),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of an earlier run of the same settings."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.losses = dict(state["losses"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])

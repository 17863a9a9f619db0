"""The verb finetune."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetcompress.allocation import check_reachable
from hetcompress.artifacts import RunFolder
from hetcompress.budgets import Budget
from hetcompress.checkpointing import Checkpoints, differences
from hetcompress.errors import UsageError
from hetcompress.files import sha256_of, write_text
from hetcompress.finetuning import Pruner
from hetcompress.finetuning import finetune as finetune_model
from hetcompress.goals import ShapeSettings, budget_of
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pipeline._common import DataSettings, Pruned, check_classes, finish, open_run_data
from hetcompress.pipeline._time import aimed, measured_budget, pruned_to_time, timed
from hetcompress.planning import DEFAULT, PlanSettings, settled
from hetcompress.pruning import magnitudes
from hetcompress.reporters import Reporter, Silent
from hetcompress.run_files import alone
from hetcompress.surgery import named_modules_of
from hetcompress.training import TrainSettings

__all__ = ["finetune"]


def finetune(
    run: Path = Path("hetrun"),
    *,
    data: DataSettings,
    train: TrainSettings | None = None,
    shapes: ShapeSettings | None = None,
    plan: PlanSettings = DEFAULT,
    arch: str | None = None,
    stage: str = "both",
    resume: str = "auto",
    checkpoint_every: int = 200,
    device: str = "auto",
    recipe: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> Pruned:
    """Learn shapes and weights towards the target, prune exactly, recalibrate, train the weights alone.

    Args:
        run: The run folder.
        data: Where images come from.
        train: How weights are trained.
        shapes: The target, and how shapes are learned; without a target MAC ratio 2.
        plan: Where a target of time is measured, and how forms are chosen.
        arch: The user's own factory, where the run was made with one.
        stage: "both", or "fine": train the weights of what `prune` left.
        resume: "auto" goes on from a checkpoint of the same settings; "never" starts anew.
        checkpoint_every: Steps between two checkpoints.
        device: "auto", "cpu" or "cuda".
        recipe: What identifies the recipe that these settings came from, for the record.
        reporter: Hears how it goes.

    Raises:
        HetCompressError: Of every kind that `hetcompress.errors` lists.
    """
    train, shapes, device = train or TrainSettings(), shapes or ShapeSettings(), _device(device)
    reporter = reporter or Silent()
    _check(stage, resume, train, shapes)
    folder = RunFolder.open(run, factory=arch)
    folder.check_writable()  # not only when the first stage has been trained
    model = folder.pruned_model() if stage == "fine" else folder.converted_model()
    budget: Budget | None = None
    pruner: Pruner | None = None
    if stage == "both" and shapes.latency_ratio is None:  # before the data are read; a time is measured after that
        budget = _reachable(model, budget_of(model, shapes, folder.input_spec.size))
    source = open_run_data(folder, data)
    teacher = folder.dense_model()
    check_classes(teacher, source, folder.input_spec)
    settings = {
        "data": data.to_json(),
        "train": dataclasses.asdict(train),
        "shapes": dataclasses.asdict(shapes),
        "stage": stage,
    }
    if shapes.latency_ratio is not None:
        plan = settled(model, plan)
        settings["plan"] = dataclasses.asdict(plan)
    weights = folder.pruned if stage == "fine" else folder.path / "converted.safetensors"
    fingerprint = fingerprint_of(settings, weights, source.classes, source.train_size)
    if resume == "auto" and (finished := folder.finished("finetune", fingerprint)) is not None:
        reporter.note("these settings were trained to the end before; --resume never trains anew")
        return Pruned.from_record(folder.path, finished)
    checkpoints = Checkpoints(
        folder.checkpoint, checkpoint_every, resume == "auto", fingerprint, _that_count(settings)
    )  # fmt: skip
    _check_replaceable(folder, checkpoints, settings)
    if shapes.latency_ratio is not None:  # what was aimed at is written down anew: not before all is checked
        budget = measured_budget(folder, model, shapes.latency_ratio, plan) if resume == "auto" else None
        budget = _reachable(model, budget or _aimed(folder, model, shapes.latency_ratio, plan, reporter))
        pruner = functools.partial(pruned_to_time, folder, budget, plan)
    if folder.stage("finetune") is not None:
        reporter.note(
            f"what was trained in {folder.path} before is replaced when this ends, with its reports and exports"
        )
    with alone(folder.path):
        result = finetune_model(
            model, teacher, source, train=train, shapes=shapes, budget=budget, pruner=pruner, checkpoints=checkpoints,
            reporter=_Recording(folder.metrics, reporter), device=device,
        )  # fmt: skip
    time = None if budget is None or pruner is None else timed(folder, result.model, budget, plan)
    record = {
        **settings,
        "fingerprint": fingerprint,
        "recipe": None if recipe is None else dict(recipe),
        "test_note": source.test_note,
    }
    return finish(folder, "finetune", record, result, time)


def _check(stage: str, resume: str, train: TrainSettings, shapes: ShapeSettings) -> None:
    for option, found, choices in (("--stage", stage, ("both", "fine")), ("--resume", resume, ("auto", "never"))):
        if found not in choices:
            raise UsageError(option, expected=" or ".join(choices), found=f"'{found}'", fix=f"leave {option} out")
    shapes.refuse_without_penalty("--logit-lr", given=train.logit_lr != TrainSettings.logit_lr)
    if stage == "fine" and shapes.has_target:
        raise UsageError(
            "--stage fine", expected="no target, since the shapes are fixed already", found="one",
            fix="leave the target out, or prune again with another one",
        )  # fmt: skip


def _check_replaceable(folder: RunFolder, checkpoints: Checkpoints, settings: Mapping[str, Any]) -> None:
    """Refuse to train over what other settings have trained, unless that is asked for or under way already.

    Stage fine trains on what was trained; a model that is gone, or was changed since, is made again.
    """
    if checkpoints.load() is not None or not checkpoints.resume or settings["stage"] == "fine":
        return
    trained = folder.stage("finetune")
    if trained is None or trained.get("fingerprint") == checkpoints.fingerprint or not folder.pruned.exists():
        return
    before = {name: trained[name] for name in settings if name in trained}
    raise UsageError(
        f"run {folder.path}", expected="no finished training but one of the same settings",
        found=f"one of {differences(_that_count(before), _that_count(settings))}",
        fix="pass --resume never to train anew and replace it, or convert into another folder (--run)",
    )  # fmt: skip


def _reachable(model: nn.Module, budget: Budget) -> Budget:
    """Return a budget of a converted model, unless it cannot be met."""
    check_reachable(named_modules_of(model, LearnableHetConv2d), budget)
    return budget


def _aimed(folder: RunFolder, model: nn.Module, ratio: float, plan: PlanSettings, reporter: Reporter) -> Budget:
    """Return the budget of time by the shapes that the source's weights suggest."""
    layers = named_modules_of(model, LearnableHetConv2d)
    return aimed(folder, model, ratio, plan, magnitudes(layers), reporter.note).budget


def fingerprint_of(settings: Mapping[str, Any], weights: Path, classes: Sequence[str], images: int) -> str:
    """Identify what a training belongs to: settings that move numbers, the data, the weights that it starts from."""
    counting = _that_count(settings)
    # in place of the folder, which may have been moved
    counting["data"] |= {"classes": list(classes), "images": images}
    text = json.dumps({**counting, "weights": sha256_of(weights)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _that_count(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that move numbers."""
    data = settings.get("data", {}).items()
    return {**settings, "data": {name: value for name, value in data if name not in ("root", "download", "workers")}}


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device", expected="cpu or auto on this machine", found=name, fix="use --device cpu")
    if name not in ("cpu", "cuda"):
        raise UsageError("--device", expected="auto, cpu or cuda", found=name)
    return name


class _Recording:
    """Writes metrics.jsonl beside telling another reporter."""

    def __init__(self, path: Path, inner: Reporter) -> None:
        self.path, self.inner = path, inner
        self.measured, self.progressed = inner.measured, inner.progressed
        self.note, self.warn = inner.note, inner.warn

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Write the line in the place of its epoch: a resumed run takes over from the lines of its checkpoint."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = lines[: int(line["epoch"]) - 1]
        write_text(self.path, "\n".join([*kept, json.dumps(dict(line))]) + "\n")
        self.inner.epoch(line)

"""Torch-Pruning (`pip install torch-pruning`) under the recipe's data, schedule, epochs and distillation.

`tp-magnitude` prunes at once and trains for all epochs, and so does `tp-uniform`, which takes the same share of each
layer: a global ranking may leave a layer a single channel.  `tp-group-norm` and `tp-bn-scale` first train with the
pruner's own regulariser for half of them, as the authors' script does (100 epochs of 200), then prune and train the
rest; the learning rate goes on as one schedule.  All prune at once, to the ratio at which the net's
MACs or measured time are those of the row of `ours`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from accuracy import BATCHES, accuracies, sizes
from recipe_settings import RecipeSettings
from torch import nn

from hetcompress.artifacts import RunFolder
from hetcompress.checkpointing import Checkpoints
from hetcompress.data import DataSource
from hetcompress.finetuning import finetune
from hetcompress.goals import ShapeSettings
from hetcompress.latency import compare_latency
from hetcompress.lowering import fold_batch_norms
from hetcompress.machine import machine
from hetcompress.models.resnet_cifar import PaddedIdentity
from hetcompress.pipeline._common import open_run_data
from hetcompress.recalibration import recalibrate_
from hetcompress.recipes import load_recipe
from hetcompress.surgery import named_modules_of
from hetcompress.training import Hook, Trainer, TrainSettings

SPARSE = ("tp-group-norm", "tp-bn-scale")
"""Ways that train groups sparse before they prune."""
SPARSE_SHARE, REGULARISATION = 0.5, 5e-4
"""Of the authors' script for CIFAR-10."""
RECALIBRATION = 40
PRUNED = "pruned.pt"
MOST, PACE, TIMED_PACE = 0.95, 0.005, 0.02
"""Of the ratio of channels; where each is timed, fewer have to do."""
ASTRAY = {"macs": 0.01, "stock": 0.05, "kernels": 0.05}
"""How far, relatively, what a row is matched to may be from what ours has now; times vary."""
Row = Mapping[str, Any]
SEARCHING = 1.0
"""Seconds of one timing there."""
BLOCK = 4
"""Where time counts, channels stay in multiples of it, which onnxruntime computes fastest (decision 8)."""


def pruner_of(
    model: nn.Module, example: torch.Tensor, method: str, *, ratio: float = 0.5, block: int | None = None
) -> Any:
    """Return Torch-Pruning's pruner of a model; the output layer keeps its channels.

    Zero-padded shortcuts need the channels of all blocks to stay as they are: there, those inside of blocks are pruned.
    """
    ignored: list[nn.Module] = list(named_modules_of(model, nn.Linear).values())[-1:]
    if named_modules_of(model, PaddedIdentity):
        convs = named_modules_of(model, nn.Conv2d)
        ignored += [conv for name, conv in convs.items() if not name.endswith(".conv1")]
    importance: Any = tp.importance.GroupMagnitudeImportance(p=2)
    kind, extra = tp.pruner.BasePruner, {}
    if method == "tp-group-norm":
        importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")
        kind, extra = tp.pruner.GroupNormPruner, {"reg": REGULARISATION}
    if method == "tp-bn-scale":
        importance = tp.importance.BNScaleImportance()
        kind, extra = tp.pruner.BNScalePruner, {"reg": REGULARISATION, "group_lasso": True}
    return kind(
        model, example, importance=importance, global_pruning=method != "tp-uniform", pruning_ratio=ratio,
        ignored_layers=ignored, round_to=block, **extra,
    )  # fmt: skip


class Sparsify(Hook):
    """The pruner's regulariser as a hook of our trainer."""

    def __init__(self, pruner: Any, model: nn.Module) -> None:
        self.pruner, self.model = pruner, model

    def before_forward(self, progress: float) -> None:
        """Change nothing: the weights are trained as they are."""

    def loss(self, progress: float, task_loss: torch.Tensor) -> None:
        """Add nothing: the regulariser writes gradients."""

    def after_backward(self, progress: float, step: int, scale: float) -> None:  # noqa: ARG002
        """Let it write them."""
        self.pruner.regularize(self.model)


def pruned_to(
    model: nn.Module, example: torch.Tensor, options: argparse.Namespace, value: Callable[[nn.Module], float],
    target: float,
) -> nn.Module:  # fmt: skip
    """Return the pruned copy whose `value` is nearest to `target`: of growing ratios, up to the first that reaches it.

    Larger ones take the last channel of a layer, which Torch-Pruning answers by leaving all of them.
    """
    block, pace = (None, PACE) if options.match == "macs" else (BLOCK, TIMED_PACE)
    best, nearest = model, value(model)
    for step in range(1, math.floor(MOST / pace) + 1):
        candidate = copy.deepcopy(model)
        pruner_of(candidate, example, options.method, ratio=step * pace, block=block).step()
        found = value(candidate)
        if abs(found - target) < abs(nearest - target):
            best, nearest = candidate, found
        if found >= target:
            break
    print(f"Torch-Pruning: {options.match} {nearest:.3f}, wanted {target:.3f}", flush=True)
    return best


def check_matched(row: Row, rows: Sequence[Row], run: Path) -> None:
    """End with a message if a peer's row is matched to what ours has no more."""
    was = row["matched"]
    ours = ours_of(row["key"], rows)
    reached = ours and ours["mac_ratio_executed"]
    if ours and was["what"] != "macs":
        same = ours.get("machine", {}).get("cpu") == row.get("machine", {}).get("cpu", machine().cpu)
        reached = ours["time"][was["what"]][0]["ratio"] if same and was["what"] in ours["time"] else None
    if reached and abs(was["target"] / reached - 1) > ASTRAY[was["what"]]:
        raise SystemExit(
            f"this row is matched to {was['what']} {was['target']:.3f}, and ours has {reached:.3f} now: remove the "
            f"row and {run}, then run this again"
        )


def ours_of(key: Row, rows: Sequence[Row]) -> Row | None:
    """Return the row of ours that a peer is matched to."""
    wanted = {**{name: value for name, value in key.items() if name != "match"}, "method": "ours"}
    return next((row for row in rows if row["key"] == wanted), None)


def target_of(options: argparse.Namespace, key: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    """Return what the row of ours reached."""
    ours = ours_of(key, rows)
    if ours is None:
        raise SystemExit(f"make the row of ours first: the key of this one, {key}, with method ours and no match")
    if options.match == "macs":
        return float(ours["mac_ratio_executed"])
    if options.match not in ours["time"]:
        raise SystemExit(f"the row of ours has no time of {options.match}")
    if ours["machine"]["cpu"] != machine().cpu:
        raise SystemExit(f"the row of ours was timed on another machine ({ours['machine']['cpu']}): time it here first")
    ratio = float(ours["time"][options.match][0]["ratio"])  # at batch 1
    if ratio <= 1:
        raise SystemExit(f"the row of ours is not faster than the dense net with {options.match}: nothing to match")
    return ratio


def pruned(
    options: argparse.Namespace, folder: RunFolder, data: DataSource, train: TrainSettings, first: int, total: int,
    target: float,
) -> nn.Module:  # fmt: skip
    """Return the pruned net, trained sparsely up to step `first`."""
    size = folder.input_spec.size
    example, device = torch.zeros(1, *size), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, teacher = folder.dense_model().to(device), folder.dense_model().to(device)
    if first:
        sparse = dataclasses.replace(train, weight_decay=0.0)  # as the authors' script has it: one penalty is enough
        trainer = Trainer(model, data, sparse, total_steps=total, teacher=teacher, device=device)
        hook = Sparsify(pruner_of(model, example.to(device), options.method), model)
        trainer.run(0, first, stage=(0, first), hook=hook, after_step=lambda _step: None)
    dense = fold_batch_norms(folder.dense_model(), example)

    def value(net: nn.Module) -> float:
        if options.match == "macs":
            return sizes(dense, net, size)["mac_ratio_effective"]
        return times(dense, net, size, SEARCHING, batches=BATCHES[:1])[0]["ratio"]

    found = pruned_to(model.cpu().eval(), example, options, value, target).to(device)
    batches = data.train_batches(train.batch_size, seed=train.seed, epoch=math.ceil(train.epochs))
    recalibrate_(found, (images.to(device) for (images, _), _i in zip(batches, range(RECALIBRATION), strict=False)))
    return found.cpu()


def times(
    dense: nn.Module, net: nn.Module, size: tuple[int, int, int], seconds: float, batches: Sequence[int] = BATCHES
) -> list[dict[str, Any]]:
    """Return the measured time ratios of a plain net in onnxruntime, batch 1 first."""
    folded = fold_batch_norms(copy.deepcopy(net).eval(), torch.zeros(1, *size))
    return [
        one.to_json()
        for one in compare_latency(dense, folded, size, batches=batches, runtimes=("onnxruntime",), seconds=seconds)
    ]


def pruned_net(run: Path) -> nn.Module:
    """Return the net as it was when it had been pruned."""
    net: nn.Module = torch.load(run / PRUNED, weights_only=False)  # written by this script
    return net


def peer_times(run: Path, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Return the measured time ratios; weights that have been trained since take no other time."""
    folder = RunFolder.open(run)
    size = folder.input_spec.size
    dense = fold_batch_norms(folder.dense_model(), torch.zeros(1, *size))
    return {"stock": times(dense, pruned_net(run), size, seconds)}


def peer_row(
    options: argparse.Namespace, key: dict[str, Any], rows: list[dict[str, Any]], run: Path
) -> dict[str, Any]:  # fmt: skip
    """Train by Torch-Pruning's way; return the row."""
    target = target_of(options, key, rows)
    folder = RunFolder.open(run)
    by_hand = {name: getattr(options, name) for name in ("epochs", "max_steps", "seed")}
    changes = {name: value for name, value in by_hand.items() if value is not None}
    settings = RecipeSettings.of(load_recipe(options.recipe), root=options.data_root, changes=changes)
    data, train = open_run_data(folder, settings.data), settings.train
    total = round(train.epochs * (data.train_size // train.batch_size))
    total = min(total, train.max_steps or total)
    first = round(SPARSE_SHARE * total) if options.method in SPARSE else 0
    kept, aimed = run / PRUNED, (run / PRUNED).with_suffix(".json")
    if kept.exists() and aimed.exists():  # pruned by an earlier call
        check_matched({"key": key, "matched": json.loads(aimed.read_text())}, rows, run)
    else:
        aimed.write_text(json.dumps({"what": options.match, "target": target}))
        torch.manual_seed(train.seed)
        torch.save(pruned(options, folder, data, train, first, total, target), kept)
    net = pruned_net(run)
    teacher, size = folder.dense_model(), folder.input_spec.size
    result = finetune(
        net, teacher, data, train=train, shapes=ShapeSettings(), first_step=first,
        checkpoints=Checkpoints(folder.checkpoint, fingerprint=json.dumps(key)),
        device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    measured_ones = {name: dataclasses.asdict(value) for name, value in result.accuracies.items()}
    both = sizes(teacher, result.model, size)
    return {
        **accuracies(measured_ones, result.epochs), **both, "mac_ratio_executed": both["mac_ratio_effective"],
        "matched": {"what": options.match, "target": target}, "time": {},
        "split": data.test_note or "all test images",
        "settings": {"train": dataclasses.asdict(train), "torch_pruning": importlib.metadata.version("torch-pruning")},
    }  # fmt: skip

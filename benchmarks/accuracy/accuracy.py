"""One row of the accuracy benchmark: a method on a recipe's net, data, schedule and budget, with one seed.

    python benchmarks/accuracy/accuracy.py cifar10-resnet20-2x resnet20-12fca82f.th --method ours --data-root DIR

| method | what it does |
|---|---|
| ours | the recipe |
| dense | the source, trained on for as long |
| unstructured | the recipe with a mask for each single weight: an upper bound that no runtime executes fast |
| hetconv | the fixed pattern of HetConv with --parts P, at the ratio that P gives |
| tp-magnitude, tp-uniform, tp-group-norm, tp-bn-scale | Torch-Pruning, at MACs or time of the row of `ours` (--match) |

A row is a line of JSON in --out.  A row that stands there is not made again unless its recipe has changed since; one
that was interrupted goes on from its folder under --work.  With `--seconds 0` nothing is timed, for a machine that is
busy training; the same command with other seconds fills the times in later.  Everything is trained by the package's own
trainer, with its distillation from the source.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rows import LEARNED, fresh_rows_of, put_row
from torch import nn

from hetcompress import pipeline
from hetcompress.artifacts import RunFolder
from hetcompress.cost import layer_macs
from hetcompress.kernels import available
from hetcompress.machine import machine
from hetcompress.planning import FEWEST_MACS, PlanSettings
from hetcompress.recipes import load_recipe

HERE = Path(__file__).parent
BATCHES = (1, 16)
MATCHES = ("macs", "stock", "kernels")
PEERS = ("tp-magnitude", "tp-uniform", "tp-group-norm", "tp-bn-scale")
PUBLISHED_EPOCHS = {"12fca82f": 200, "4bfd9763": 200}
"""What public checkpoints were trained for, as their authors say, by the beginning of the SHA-256 in their names."""
OTHER_SHAPES = {
    "ours": [],
    "dense": [],
    "unstructured": ["--family", "free", "--group-in", "1", "--group-out", "1"],
    "hetconv": ["--family", "hetconv"],
}


def key_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what tells a row from the others."""
    key = {name: getattr(options, name) for name in ("recipe", "method", "seed", "epochs", "max_steps")}
    if options.method in PEERS:
        key["match"] = options.match
    if options.method == "hetconv":
        key["parts"] = options.parts
    return key


def hetcompress(*arguments: object) -> None:
    """Run a command of the package, as a user would."""
    subprocess.run([sys.executable, "-m", "hetcompress", *map(str, arguments)], check=True)


def changes(options: argparse.Namespace) -> list[str]:
    """Return the options of `finetune` that are not the recipe's."""
    given = {"--data-root": options.data_root, "--epochs": options.epochs, "--max-steps": options.max_steps}
    pairs = [(name, value) for name, value in {**given, "--seed": options.seed}.items() if value is not None]
    return [str(part) for pair in pairs for part in pair]


def convert(options: argparse.Namespace, run: Path) -> None:
    """Make the run folder, if an earlier call has not."""
    if run.exists():
        return
    extra = list(OTHER_SHAPES.get(options.method, []))
    if options.method == "hetconv":
        extra += ["--family-arg", f"parts={options.parts}"]
    hetcompress("convert", options.checkpoint, "--recipe", options.recipe, "--run", run, *extra)
    if options.method == "dense":  # all shapes full: the same net, with the same layers to learn from
        hetcompress("prune", "--run", run, "--density", 1)
    if options.method == "hetconv":
        hetcompress("prune", "--run", run)


def own_row(options: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Train by the command line; return what the run folder and measurements say."""
    fine = ["--stage", "fine"] if options.method in ("dense", "hetconv") else []
    if "accuracies" not in (RunFolder.open(run).stage("finetune") or {}):
        hetcompress("finetune", "--recipe", options.recipe, "--run", run, *changes(options), *fine)
    folder = RunFolder.open(run)
    stage = folder.stage("finetune") or {}
    epochs = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    row = {
        **accuracies(stage["accuracies"], epochs),
        **sizes(folder.dense_model(), folder.pruned_model(), folder.input_spec.size),
        "split": stage["test_note"] or "all test images",
        "settings": {name: stage[name] for name in ("train", "shapes") if name == "train" or options.method in LEARNED},
    }
    if options.method == "unstructured":
        return row  # its MACs are not executed by any form, and its time is the dense one's
    executed = pipeline.report(run, plan=FEWEST_MACS, seconds=0).mac_ratio_executed
    return {**row, "mac_ratio_executed": executed, "time": {}}


def accuracies(measured_ones: dict[str, dict[str, Any]], epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the accuracy of the source, of the last epoch, and, apart from it, of the best one that met the target."""
    percents = {name: 100 * one["correct"] / one["total"] for name, one in measured_ones.items()}
    met = [line["accuracy"] for line in epochs if line["stage"] == 2]
    last = percents["after stage 2"]
    return {"source": percents["source"], "last_epoch": last, "best_epoch": max([last, *met])}


def sizes(dense: nn.Module, model: nn.Module, size: tuple[int, int, int]) -> dict[str, float]:
    """Return dense over kept MACs and weights of all convolutions and linear layers."""
    before, after = (list(layer_macs(net, torch.zeros(1, *size)).values()) for net in (dense, model))
    return {
        "mac_ratio_effective": sum(layer.dense for layer in before) / sum(layer.effective for layer in after),
        "weight_ratio": sum(layer.weights for layer in before) / sum(layer.kept for layer in after),
    }


def own_times(run: Path, seconds: float) -> dict[str, Any]:
    """Return the measured time ratios, with stock operators and with our kernel, and what was executed there."""
    plans = {"stock": PlanSettings("measured")}
    if available()[0]:
        plans["kernels"] = PlanSettings("measured", kernels=True)
    times, executed = {}, {}
    for name, plan in plans.items():
        report = pipeline.report(run, plan=plan, batches=BATCHES, runtimes=("onnxruntime",), seconds=seconds)
        times[name] = [comparison.to_json() for comparison in report.latency]
        executed[name] = {"mac_ratio": report.mac_ratio_executed, "forms": report.plan["forms"]}
    return {"time": times, "executed": executed}


def timed(options: argparse.Namespace, row: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return a row with its times, which are measured where that is wanted, possible and not done yet."""
    if not options.seconds or row.get("time") != {} or not run.exists():
        return row
    if options.method in PEERS:
        from peers import peer_times

        found = {"time": peer_times(run, options.seconds)}
    else:
        found = own_times(run, options.seconds)
    return {**row, **found, "machine": dataclasses.asdict(machine())}


def made(options: argparse.Namespace, key: dict[str, Any], run: Path) -> dict[str, Any]:
    """Train; return the row without its times."""
    convert(options, run)
    if options.method in PEERS:
        from peers import peer_row

        row = peer_row(options, key, fresh_rows_of(options.out), run)
    else:
        row = own_row(options, run)
    recipe = load_recipe(options.recipe)
    net, data = recipe.options["convert"]["arch"], recipe.options["finetune"]["data"]
    source = RunFolder.open(run).manifest["source"]["sha256"]
    epochs = options.source_epochs or PUBLISHED_EPOCHS.get(source[:8])
    return {
        "key": key, "net": net, "data": data, "recipe_sha256": recipe.sha256, "source_epochs": epochs,
        "source_sha256": source, **row,
    }  # fmt: skip


def main() -> None:
    """Make one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its name")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--method", choices=[*OTHER_SHAPES, *PEERS], default="ours")
    parser.add_argument("--match", choices=MATCHES, default="macs", help="of a peer: what is as in the row of ours")
    parser.add_argument("--parts", type=int, default=4, help="P of hetconv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source-epochs", type=int, help="what the checkpoint was trained for, of public ones known")
    parser.add_argument("--epochs", type=float, help="in place of the recipe's")
    parser.add_argument("--max-steps", type=int, help="for a smoke run")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of each comparison of times; 0 leaves them for later"
    )
    parser.add_argument("--out", type=Path, default=HERE / "rows.jsonl")
    parser.add_argument("--work", type=Path, default=Path("accuracy-runs"), help="folder of runs under way")
    options = parser.parse_args()
    key = key_of(options)
    parts = [*(value for value in key.values() if value is not None), load_recipe(options.recipe).sha256[:8]]
    run = options.work / "-".join(Path(str(part)).name for part in parts)
    rows = fresh_rows_of(options.out)
    row = next((row for row in rows if row["key"] == key), None)
    if row is None:
        row = made(options, key, run)
    elif options.method in PEERS:
        from peers import check_matched

        check_matched(row, rows, run)
    row = timed(options, row, run)
    put_row(options.out, row)
    print(json.dumps(row))


if __name__ == "__main__":
    main()

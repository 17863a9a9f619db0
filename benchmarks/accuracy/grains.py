"""What the same measured time buys: granularities, each brought to one time ratio and trained alike, in short runs.

    python benchmarks/accuracy/grains.py resnet20-12fca82f.th --arch hetcompress:resnet20 --data-root DIR

`whole` is channel pruning by our own method; `auto` takes for each layer what keeps most at half of the dense time, of
whole channels, shapes for all filters and shapes for groups of filters.  One row of JSON each in --out; rows that are
there are not made again, and an interrupted one goes on from its folder under --work.  With `--seconds 0`
nothing is timed; the same command with other seconds fills the times in later: those of whole models in onnxruntime,
batch 1, one thread.  Settings are compared on the test images, so accuracies are optimistic by a little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from accuracy import hetcompress
from rows import put_row, rows_of

from hetcompress import pipeline
from hetcompress.artifacts import RunFolder
from hetcompress.machine import machine
from hetcompress.planning import PlanSettings

HERE = Path(__file__).parent
GRAINS = (
    ("whole", "--no-kernels"), ("channels", "--no-kernels"), ("auto", "--no-kernels"), ("vector8", "--kernels"),
    ("auto", "--kernels"),
)  # fmt: skip
"""Granularity, and whether our kernel may be used."""
FEATURES = 10
"""Weight of the source's features: the default when the first rows were made."""


def trained(options: argparse.Namespace, grain: str, kernels: str, run: Path) -> dict[str, Any]:
    """Convert and fine-tune by the command line; return what there is to say, without times."""
    if not run.exists():
        hetcompress(
            "convert", options.checkpoint, "--arch", options.arch, "--granularity", grain, kernels, "--run", run
        )
    given = ("--data", "cifar10", "--latency-ratio", options.latency_ratio, "--epochs", options.epochs)
    root = () if options.data_root is None else ("--data-root", options.data_root)
    hetcompress("finetune", "--run", run, *given, *root, "--features", FEATURES, "--seed", options.seed, kernels)
    folder = RunFolder.open(run)
    stage = folder.stage("finetune") or {}
    layers = folder.manifest["conversion"]["layers"].values()
    percents = {name: 100 * one["correct"] / one["total"] for name, one in stage["accuracies"].items()}
    return {
        "after_recalibration": percents["after recalibration"],
        "last_epoch": percents["after stage 2"],
        "mac_ratio": stage["mac_ratio"],
        "grains": Counter(f"{layer['family']}, {layer['group_out']} x {layer['group_in']}" for layer in layers),
        "time": [],
    }


def timed(run: Path, seconds: float, *, kernels: bool) -> dict[str, Any]:
    """Return what a run takes beside its dense net, and in which forms."""
    plan = PlanSettings("fast", kernels=kernels)
    report = pipeline.report(run, plan=plan, batches=(1,), runtimes=("onnxruntime",), seconds=seconds)
    return {
        "time": [comparison.to_json() for comparison in report.latency],
        "forms": report.plan["forms"],
        "machine": dataclasses.asdict(machine()),
    }


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--latency-ratio", type=float, default=1.6)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each comparison of times; 0: later")
    parser.add_argument("--out", type=Path, default=HERE / "grains.jsonl")
    parser.add_argument("--work", type=Path, default=Path("accuracy-runs"), help="folder of runs under way")
    options = parser.parse_args()
    for grain, kernels in GRAINS:
        shared = {name: getattr(options, name) for name in ("arch", "latency_ratio", "epochs", "seed")}
        key = {**shared, "granularity": grain, "kernels": kernels == "--kernels"}
        run = options.work / "-".join(str(value).replace(":", "-") for value in key.values())
        known = next((row for row in rows_of(options.out) if row["key"] == key), None)
        row = known or {"key": key, **trained(options, grain, kernels, run)}
        if options.seconds and not row["time"]:
            row |= timed(run, options.seconds, kernels=kernels == "--kernels")
        put_row(options.out, row)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

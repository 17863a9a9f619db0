"""How much of the MAC ratio a clock shows: nets, MAC ratios and rivals, stock operators of onnxruntime, fp32 and int8.

    python benchmarks/speed/speed.py --out benchmarks/speed/speed.json [--nets vgg16] [--ratios 2 5] [--minutes 7]
    python benchmarks/speed/speed.py --out benchmarks/speed/speed.json --docs docs/speed.md

The second writes the table into the page.  Every row is one compressed model; it, its int8 file, the dense net and the
dense net's int8 file run in turns in the same rounds.  "MAC ratio" is that of the operators that run, "realised" the
time ratio over it.  Shapes are what `prune` chooses by the magnitude of the weights: of the given checkpoint where
there is one (--checkpoint NET=FILE), every layer by its worth; of a random initialisation otherwise, where magnitudes
say nothing of layers, so that all keep the same share.  Rivals: HetConv's fixed comb, and channel pruning by
Torch-Pruning (pip install torch-pruning; left out without it).  int8 is calibrated on random images, which does for
timing.  Rows are written as they are made; a second call goes on where the first stopped, and makes those again in
which something else kept the machine busy; --minutes ends a call early.  A file holds rows of one machine and one set
of versions.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from subjects import NETS, Subject, compressed
from table import table, write_between_marks
from torch import nn

from hetcompress.benchmarking import side_by_side
from hetcompress.candidates import onnx_candidate
from hetcompress.cost import count_executed
from hetcompress.machine import machine
from hetcompress.planning import PlanSettings, plan

BATCHES = (1, 16)
ROUNDS = 9
"""At least, of each row: five nets at 16 images take seconds a round."""
STEADY = 1.05
"""A row whose 90 % interval is wider, end over end, comes from a busy minute and is made again."""
PACKAGES = ("torch", "onnxruntime", "torch-pruning")


def measure(
    subject: Subject, name: str, compact: nn.Module, batch: int, threads: int, seconds: float
) -> dict[str, Any]:
    """Plan, lower and time one model."""
    planned = plan(subject.dense, compact, subject.example, PlanSettings(batch=batch, threads=threads))
    model = planned.lowered.model
    ours = subject.files(f"{name}-{batch}-{threads}".replace(" ", "-"), model)
    names = ("dense", "dense int8", "fp32", "int8")
    candidates = [
        onnx_candidate(label, path)
        for label, path in zip(names, (*subject.files("dense", subject.dense), *ours), strict=True)
    ]
    found = side_by_side(candidates, batch=batch, threads=threads, seconds=seconds, min_rounds=ROUNDS)
    timed = {timing.name: timing for timing in found}
    ratio = subject.macs / count_executed(model, subject.example).macs
    return {
        "batch": batch, "threads": threads, "mac_ratio": round(ratio, 3), "time_ratio": round(timed["fp32"].ratio, 3),
        "interval": [round(timed["fp32"].ratio_low, 3), round(timed["fp32"].ratio_high, 3)],
        "realised": round(timed["fp32"].ratio / ratio, 3), "verdict": timed["fp32"].verdict,
        "int8_ratio": round(timed["int8"].ratio, 3),
        "int8_interval": [round(timed["int8"].ratio_low, 3), round(timed["int8"].ratio_high, 3)],
        "dense_int8_ratio": round(timed["dense int8"].ratio, 3),
        "milliseconds": {label: round(timing.latency.median_ms, 4) for label, timing in timed.items()},
        "bytes": {candidate.name: candidate.bytes for candidate in candidates},
        "forms": planned.summary()["forms"], "note": planned.note,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Return what was measured with, as far as it is installed."""
    installed = {item.name: item.version for item in importlib.metadata.distributions()}
    return {package: installed[package] for package in PACKAGES if package in installed}


def measured_with(found: dict[str, Any]) -> list[Any]:
    """Return what rows of one file must share."""
    return [found["machine"]["cpu"], found["machine"]["flags"], found["versions"]]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from the others."""
    return row["net"], row["weights"], row["model"], row["threads"], row["batch"]


def is_steady(row: dict[str, Any]) -> bool:
    """Say whether both ratios of a row can be told; rows made before the second interval was kept have one."""
    intervals = (row["interval"], row.get("int8_interval", (1, 1)))
    return all(high <= STEADY * low for low, high in intervals)


def fill(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Measure the rows that are missing, until the time is over."""
    end = time.monotonic() + 60 * options.minutes
    done = {key_of(row) for row in found["rows"] if is_steady(row)}
    trained = {item.partition("=")[0] for item in options.checkpoint}

    def wanted(net: str, model: str) -> list[tuple[int, int]]:
        places = itertools.product(options.threads, options.batches)
        return [place for place in places if (net, _weights(net in trained), model, *place) not in done]

    for subject, name, model, places in compressed(options, wanted):
        for threads, batch in places:
            if time.monotonic() > end:
                return
            row = measure(subject, name, model, batch=batch, threads=threads, seconds=options.seconds)
            made = {"net": subject.name, "weights": _weights(subject.trained), "model": name, **row}
            found["rows"] = [row for row in found["rows"] if key_of(row) != key_of(made)] + [made]
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(subject.name, name, row["mac_ratio"], row["time_ratio"], row["interval"], flush=True)


def _weights(trained: bool) -> str:
    return "trained" if trained else "random"


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN", help="of names, as 'channels *'")
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 3, 5, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NET=FILE")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--docs", type=Path, help="the page to write the table into; measures nothing")
    options = parser.parse_args()
    found = {"machine": machine().to_json(), "versions": versions(), "rows": []}
    if options.out.exists():
        before = json.loads(options.out.read_text())
        if not options.docs and measured_with(before) != measured_with(found):
            parser.error(f"{options.out} was measured with {measured_with(before)}, not {measured_with(found)}")
        found = before
    if options.docs:
        write_between_marks(options.docs, table(found))
        return
    torch.set_num_threads(max(options.threads))
    fill(found, options)


if __name__ == "__main__":
    main()

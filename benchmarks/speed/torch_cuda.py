"""The speed table on a CUDA device: torch, eager and compiled with CUDA graphs, bfloat16, channels-last.

    python benchmarks/speed/torch_cuda.py --out benchmarks/speed/cuda.json [--nets vgg16] [--ratios 2 5]

Nets, shapes and rivals are those of `speed.py`.  Each row is one compressed model at one batch size in one mode; it and
the dense net, batch norms folded in both, run in turns in the same rounds, and each sample waits for the device.
"MAC ratio" is that of the operators that run, "realised" the time ratio over it.  Rows are written as they are made; a
second call goes on where the first stopped.  `--device cpu` is for trying the script out where there is no such device.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import measured_with, versions
from subjects import NETS, Subject, compressed
from torch import nn

from hetcompress.comparisons import Latency, ratio_of, verdict_of
from hetcompress.cost import count_executed
from hetcompress.latency import measure
from hetcompress.lowering import lower
from hetcompress.machine import machine
from hetcompress.planning import PlanSettings, plan

BATCHES = (1, 64, 256)
MODES = ("eager", "compiled")
ROUNDS = 15


def ready(model: nn.Module, options: argparse.Namespace, mode: str) -> Callable[[torch.Tensor], object]:
    """Return a model as it would be deployed on the device: in its number type, channels-last, compiled if so asked."""
    moved = copy.deepcopy(model).eval().to(options.device, getattr(torch, options.dtype))
    moved = moved.to(memory_format=torch.channels_last)
    if mode == "eager":
        return moved
    torch.compiler.reset()
    # CUDA graphs are what reduce-overhead means
    arguments = {"mode": "reduce-overhead"} if options.backend == "inductor" else {}
    return torch.compile(moved, backend=options.backend, **arguments)


def runner(model: Callable[[torch.Tensor], object], images: torch.Tensor) -> Callable[[], None]:
    """Return what runs a model once and waits until it is done."""

    def run() -> None:
        with torch.inference_mode():
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def lowered(subject: Subject, model: nn.Module, batch: int, device: str) -> nn.Module:
    """Return a compressed net in the forms that are fastest on the device; on the CPU in those with the fewest MACs."""
    if device != "cuda":
        return lower(model, subject.example).model
    settings = PlanSettings(plan="fast", target="torch-cuda", batch=batch)
    return plan(subject.dense, model, subject.example, settings).lowered.model


def row_of(subject: Subject, model: nn.Module, batch: int, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time one compressed net against the dense one."""
    images = torch.randn(batch, *subject.example.shape[1:], generator=torch.Generator().manual_seed(0))
    images = images.to(options.device, getattr(torch, options.dtype), memory_format=torch.channels_last)
    both = {
        name: runner(ready(one, options, mode), images) for name, one in (("dense", subject.dense), ("compact", model))
    }
    for run in both.values():  # compiles
        run()
    samples = measure(both, seconds=2 * options.seconds, min_rounds=ROUNDS)
    ratio, low, high = ratio_of(samples["dense"], samples["compact"])
    macs = subject.macs / count_executed(model, subject.example).macs
    medians = {
        name: round(Latency.of(times, batch=batch, threads=1, runtime=options.device).median_ms, 4)
        for name, times in samples.items()
    }
    return {
        "batch": batch, "mode": mode, "dtype": options.dtype, "mac_ratio": round(macs, 3),
        "time_ratio": round(ratio, 3), "interval": [round(low, 3), round(high, 3)], "realised": round(ratio / macs, 3),
        "verdict": verdict_of(low, high), "milliseconds": medians,
    }  # fmt: skip


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from the others."""
    return row["net"], row["model"], row["mode"], row["batch"], row["dtype"]


def fill(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Measure the rows that are missing."""
    done = {key_of(row) for row in found["rows"]}

    def wanted(net: str, model: str) -> list[tuple[int, str]]:
        places = itertools.product(options.batches, options.modes)
        return [(batch, mode) for batch, mode in places if (net, model, mode, batch, options.dtype) not in done]

    for subject, name, model, places in compressed(options, wanted):
        for batch, mode in places:
            row = row_of(subject, lowered(subject, model, batch, options.device), batch, mode, options)
            found["rows"].append({"net": subject.name, "model": name, **row})
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(subject.name, name, mode, batch, row["mac_ratio"], row["time_ratio"], row["interval"], flush=True)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN", help="of names, as 'channels *'")
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 3, 5, 8])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NET=FILE")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu tries the script out")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    here: dict[str, Any] = {"machine": machine().to_json(), "device": device, "versions": versions(), "rows": []}
    found = here
    if options.out.exists():
        found = json.loads(options.out.read_text())
        if [found["device"], *measured_with(found)] != [device, *measured_with(here)]:
            parser.error(f"{options.out} was measured elsewhere or with other versions")
    fill(found, options)


if __name__ == "__main__":
    main()

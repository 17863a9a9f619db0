"""Whole nets with fine shapes: our kernel in onnxruntime and in torch, against dense, stock forms and fewer channels.

    python benchmarks/speed/kernel_nets.py [--nets vgg16 resnet34] [--ratios 5] [--batches 1 16] [--threads 1 2]

Shapes are what `prune` chooses at granularity vector: by the magnitudes of a checkpoint (--checkpoint NET=FILE), or the
same share of every layer of a random initialisation, whose magnitudes say nothing of layers.  All models of a row are
timed in turns, in one run, each against the dense net in the same runtime; "realised" is the time ratio over the
executed MAC ratio.  A model that waits for its turn loses its weights from the caches, as in a program that does other
things; `in_a_row` repeats each model's call eight times a turn, as in one that does nothing else.  Stock forms are the
measured plan for the same shapes without our kernel, made for each row (--stock says at which MAC ratios); channel
pruning is Torch-Pruning at the same MACs (pip install torch-pruning; left out without it).  Rows are written as they
are made; a second call goes on where the first stopped, on the same machine, and --minutes ends a call early.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from subjects import NETS, Subject, macs_of
from torch import nn

from hetcompress.comparisons import ratio_of
from hetcompress.cost import count_executed
from hetcompress.graphs import onnx_bytes
from hetcompress.latency import measure, prepare_onnx, prepare_torch, torch_threads
from hetcompress.machine import machine
from hetcompress.planning import PlanSettings, plan

HERE = Path(__file__).parent
CALLS = 8
TARGETS = {"onnxruntime": "ort-cpu", "torch": "torch-cpu"}
RATIOS = (2.0, 3.0, 5.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Models:
    """What a row compares: the dense net and others, all lowered, by name.

    Attributes:
        example: One image.
        dense: What time ratios relate to.
        others: By name.
        pruned: What stock forms are planned of, for each setting; None without them.
    """

    example: torch.Tensor
    dense: nn.Module
    others: dict[str, nn.Module]
    pruned: nn.Module | None = None


def models(name: str, ratio: float, checkpoint: str | None, *, stock: bool) -> Models:
    """Return the models of a net at one MAC ratio."""
    with tempfile.TemporaryDirectory() as temporary:
        subject = Subject(name, Path(temporary), Path(checkpoint) if checkpoint else None)
        dense, example = subject.dense, subject.example
        others = {"own kernel": subject.in_kernel(ratio)}
        with contextlib.suppress(ImportError):
            others["channel pruning"] = subject.channel_pruned(ratio).eval()
        pruned = subject.learned("vector", ratio) if stock else None
    return Models(example, dense, others, pruned)


def kept_models(folder: Path | None, name: str, ratio: float, checkpoint: str | None, *, stock: bool) -> Models:
    """Return the models, from a folder if they have been kept there."""
    path = folder and folder / f"{name}-{ratio:g}.pt"
    if path and path.exists():
        return Models(*torch.load(path, weights_only=False))
    made = models(name, ratio, checkpoint, stock=stock)
    if path:
        torch.save((made.example, made.dense, made.others, made.pruned), path)
    return made


def in_a_row(run: Callable[[], object]) -> Callable[[], object]:
    """Return what makes `CALLS` calls."""

    def runs() -> None:
        for _ in range(CALLS):
            run()

    return runs


def timed(
    compared: Models, runtime: str, batch: int, threads: int, seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the times of each model in one runtime."""
    size = tuple(compared.example.shape[1:])
    others = dict(compared.others)
    if compared.pruned is not None:
        settings = PlanSettings("fast", TARGETS[runtime], batch, threads, kernels=False)
        others["stock forms"] = plan(compared.dense, compared.pruned, compared.example, settings).lowered.model
    images = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
    every = {"dense": compared.dense, **others}
    with torch_threads(threads):
        runners = {
            name: (
                prepare_onnx(onnx_bytes(model, compared.example), threads)
                if runtime == "onnxruntime"
                else prepare_torch(model, size)
            )(images)[0]
            for name, model in every.items()
        }
        samples = measure(runners, seconds=seconds, min_rounds=5)
        rows = {"dense": {name: in_a_row(run) for name, run in runners.items()}} if batch == 1 else {}
        repeated = measure(rows["dense"], seconds=seconds, min_rounds=5) if rows else {}
    for name, model in others.items():
        mac_ratio = macs_of(compared.dense, compared.example) / count_executed(model, compared.example).macs
        ratio, low, high = ratio_of(samples["dense"], samples[name])
        found: dict[str, Any] = {
            "mac_ratio": round(mac_ratio, 3),
            "ms": round(sorted(samples[name])[len(samples[name]) // 2], 3),
        }
        found |= {
            "time_ratio": round(ratio, 3),
            "interval": [round(low, 3), round(high, 3)],
            "realised": round(ratio / mac_ratio, 3),
        }
        if repeated:
            again = ratio_of(repeated["dense"], repeated[name])[0]
            found["in_a_row"] = {"time_ratio": round(again, 3), "realised": round(again / mac_ratio, 3)}
        yield name, found


def opened(path: Path) -> dict[str, Any]:
    """Return the results so far, for more of the same machine.

    Raises:
        SystemExit: They are another machine's.
    """
    here = machine().to_json()
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"machine": here, "rows": []}
    if any(found["machine"][name] != here[name] for name in ("cpu", "flags")):
        raise SystemExit(f"{path} has the rows of another machine: {found['machine']}")
    return found | {"machine": here}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write the results, a row a line."""
    rows = ",\n".join(json.dumps(row) for row in found["rows"])
    path.write_text(f'{{"machine": {json.dumps(found["machine"])},\n"rows": [\n{rows}\n]}}\n')


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "kernel_nets.json")
    parser.add_argument("--nets", nargs="+", default=["vgg16", "resnet34"], choices=list(NETS))
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--stock", nargs="*", type=float, default=RATIOS, metavar="RATIO")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NET=FILE")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row and way of calling")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="keep the models there")
    parser.add_argument("--prepare", action="store_true", help="make the models, measure nothing")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    checkpoints = dict(item.split("=", 1) for item in options.checkpoint)
    found = opened(options.out)
    done = {tuple(row["key"].values()) for row in found["rows"]}
    for name, ratio in itertools.product(options.nets, options.ratios):
        keys = [
            {"net": name, "weights": "trained" if name in checkpoints else "random", "ratio": ratio,
             "runtime": runtime, "batch": batch, "threads": threads}
            for threads, batch, runtime in itertools.product(options.threads, options.batches, ("onnxruntime", "torch"))
        ]  # fmt: skip
        missing = [key for key in keys if tuple(key.values()) not in done]
        if not missing or time.monotonic() > end:
            continue
        compared = kept_models(options.models, name, ratio, checkpoints.get(name), stock=ratio in options.stock)
        for key in [] if options.prepare else missing:
            if time.monotonic() > end:
                break
            rows = dict(timed(compared, str(key["runtime"]), int(key["batch"]), int(key["threads"]), options.seconds))
            found["rows"].append({"key": key, "models": rows})
            write(options.out, found)
            print(key, {model: (row["time_ratio"], row["realised"]) for model, row in rows.items()}, flush=True)


if __name__ == "__main__":
    main()

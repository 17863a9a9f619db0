"""The project's budgets, measured: convert time, training step, input pipeline, peak memory.

    python benchmarks/budgets.py --out benchmarks/budgets.json

| what | budget |
|---|---|
| convert of torchvision's ResNet-50 in a new process, without importing torch but with importing torchvision | 5 s |
| training step, learnable over dense layers (ResNet-20, batch 128, channels-last, bf16 if in hardware) | 1.10 |
| input pipeline, CIFAR-sized images per second | 10,000 |
| peak memory of convert and export over the model's size (ResNet-50) | 4 |

The peak is what a step adds to a process that has imported its libraries and taken a small net through the same step:
`import` and what libraries load at first use cost the same for any model.  "from_cold" has only the imports behind it.
Fixed costs of some 100 MB weigh heavily on a model of 100 MB; so the bytes stand beside the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from hetcompress.conversion import convert as convert_model
from hetcompress.data.augmentation import Augmentation
from hetcompress.data.in_memory import InMemory
from hetcompress.machine import machine
from hetcompress.models import MODELS
from hetcompress.shapes import FreeShapes
from hetcompress.training import amp_dtype

MEMORY_PROBE = """
import sys, torch, onnxscript, onnxruntime, torchvision
from pathlib import Path
from hetcompress import pipeline

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

def convert(checkpoint, run):
    pipeline.convert(checkpoint, run=run, force=True)

def export(checkpoint, run):
    pipeline.export(("onnx",), run, seconds={seconds})

if {warm}:
    {step}(Path({small!r}), Path({small!r}).with_suffix(""))
base = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
{step}(Path({checkpoint!r}), Path({checkpoint!r}).with_suffix(""))
print(kilobytes("VmHWM") - base)
"""

TIME_PROBE = """
import time, torch
from pathlib import Path
began = time.perf_counter()
import torchvision
imported = time.perf_counter()
from hetcompress import pipeline
pipeline.convert(Path({checkpoint!r}), run=Path({checkpoint!r}).with_suffix(""))
print(imported - began, time.perf_counter() - imported)
"""


def training_step(rounds: int) -> dict[str, float | str]:
    """Interleave dense and learnable training steps; medians in seconds."""
    dense = MODELS["resnet20"].build()
    learnable = convert_model(dense, family=FreeShapes(), group_out=16, group_in=1).model
    models = {"dense": dense, "learnable": learnable}
    images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (128,))
    times: dict[str, list[float]] = {name: [] for name in models}
    optimizers = {}
    dtype = amp_dtype("auto", torch.device("cpu"))
    for name, model in models.items():
        model.train().to(memory_format=torch.channels_last)
        optimizers[name] = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for index in range(rounds + 2):
        for name, model in models.items():
            began = time.perf_counter()
            optimizers[name].zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizers[name].step()
            if index >= 2:
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "dtype": str(dtype),
        **medians,
        "ratio": statistics.median(b / a for a, b in zip(times["dense"], times["learnable"], strict=True)),
    }


def input_pipeline() -> float:
    """Return augmented, normalised images per second."""
    images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.int64)
    data = InMemory(
        "random", ("one",), lambda _: (images, labels), train_size=len(images), image_size=(3, 32, 32),
        mean=(0.5,) * 3, std=(0.25,) * 3, augment=Augmentation(),
    )  # fmt: skip
    list(zip(range(20), data.train_batches(128, seed=0, epoch=0), strict=False))
    began = time.perf_counter()
    count = sum(len(batch) for batch, _ in data.train_batches(128, seed=0, epoch=1))
    return count / (time.perf_counter() - began)


def resnet50(folder: Path) -> dict[str, Any]:
    """Time convert on ResNet-50 and measure peak memory of convert and export, with and without its latencies."""
    import torchvision

    from hetcompress import pipeline

    small, checkpoint = folder / "small.pt", folder / "model.pt"
    torch.save(MODELS["resnet20"].build().state_dict(), small)
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), checkpoint)
    times = subprocess.run(
        [sys.executable, "-c", TIME_PROBE.format(checkpoint=str(checkpoint))],
        capture_output=True,
        text=True,
        check=True,
    )
    for path in (small, checkpoint):
        pipeline.convert(path, run=path.with_suffix(""), force=True)
        pipeline.prune(path.with_suffix(""), density=0.25)
    size = checkpoint.stat().st_size
    peaks = {}
    for name, step, spent in (
        ("export", "export", 0),
        ("export_with_latency", "export", 0.5),
        ("convert", "convert", 0),
    ):
        for kind, warm in (("", True), ("_from_cold", False)):
            probe = MEMORY_PROBE.format(
                step=step, seconds=spent, warm=warm, small=str(small), checkpoint=str(checkpoint)
            )
            done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
            peak = int(done.stdout.split()[-1]) * 1024
            peaks[name + kind] = {"bytes": peak, "over_model": round(peak / size, 2)}
    importing, converting = map(float, times.stdout.split())
    return {
        "seconds": {"importing_torchvision": importing, "convert": converting, "both": importing + converting},
        "model_bytes": size,
        "peak_memory": peaks,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {
            "machine": machine().to_json(),
            "threads": torch.get_num_threads(),
            "training_step": training_step(options.rounds),
            "input_images_per_second": input_pipeline(),
            "resnet50": resnet50(Path(name)),
        }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

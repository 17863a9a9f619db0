"""Public architectures with random weights through the whole pipeline: is what comes out the same function?

    python benchmarks/zoo.py --out benchmarks/zoo.json

Each net is converted, pruned to a random pattern of density 0.25, lowered, exported to ONNX and compared in onnxruntime
with the pruned model.  Rows are written as they are made; a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hetcompress import pipeline
from hetcompress.machine import machine
from hetcompress.models import parse_architecture

NETS = (
    "torchvision:resnet18", "torchvision:resnet34", "torchvision:resnet50", "torchvision:vgg16_bn",
    "torchvision:mobilenet_v2", "timm:resnet26",
)  # fmt: skip
DENSITY, SEED = 0.25, 0


def through(spec: str, folder: Path) -> dict[str, Any]:
    """Take one net through the pipeline; return how far apart each step is from the one before, and seconds."""
    torch.manual_seed(SEED)
    checkpoint, run = folder / "model.pt", folder / "run"
    torch.save(parse_architecture(spec).build().state_dict(), checkpoint)
    marks = [time.perf_counter()]
    converted = pipeline.convert(checkpoint, run=run)
    marks.append(time.perf_counter())
    pruned = pipeline.prune(run, density=DENSITY, random=SEED)
    marks.append(time.perf_counter())
    exported = pipeline.export(("onnx",), run, seconds=0)
    marks.append(time.perf_counter())
    file = exported.files[0]
    seconds = {name: round(b - a, 1) for name, a, b in zip(("convert", "prune", "export"), marks, marks[1:])}  # noqa: B905
    return {
        "net": spec, "found": converted.architecture, "convert_difference": converted.max_difference,
        "density": pruned.density, "mac_ratio": pruned.mac_ratio,
        "lowering_difference": exported.lowering_difference, "onnx_difference": file.max_difference,
        "onnx_relative_difference": file.relative_difference, "same_class": file.argmax_agreement,
        "bytes": file.bytes, "dense_bytes": exported.dense_bytes["onnx"], "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Take all nets through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    found["machine"] = machine().to_json()
    for spec in NETS:
        if any(row["net"] == spec for row in found["rows"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found["rows"].append(through(spec, Path(folder)))
        print(json.dumps(found["rows"][-1]), flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What int8 costs in accuracy on trained nets: public CIFAR-10 checkpoints, fine-tuned shortly, exported in int8.

    python benchmarks/speed/int8_accuracy.py --out benchmarks/speed/int8_accuracy.json \\
        --checkpoint resnet20=resnet20.th resnet56=resnet56.th --data-root DIR [--granularities channels vector]

Each row is `convert`, `finetune` and `export --onnx --int8` as a user runs them, at the defaults of its time but for
the number of epochs, which are too few for a good accuracy: the loss of int8 is what is looked at.  Accuracy of both
files is that on all test images.  A row that stands there is not made again.

    python benchmarks/speed/int8_accuracy.py --out FILE --run accuracy-runs/RUN --data-root DIR

exports a run that is fine-tuned already, and times its files (--seconds).
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hetcompress.machine import machine


def hetcompress(*arguments: object) -> str:
    """Run a command of the package and return what it prints on stdout."""
    command = [sys.executable, "-m", "hetcompress", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def percent(accuracy: dict[str, Any]) -> float:
    """Return an accuracy as the files say it in percent."""
    return round(100 * accuracy["correct"] / accuracy["total"], 2)


def row(net: str, granularity: str, options: argparse.Namespace) -> dict[str, Any]:
    """Make a run and return both accuracies."""
    checkpoint = dict(item.split("=", 1) for item in options.checkpoint)[net]
    run = options.work / f"{net}-{granularity}-{options.ratio:g}"
    if not (run / "run.json").exists():
        hetcompress("convert", checkpoint, "--arch", f"hetcompress:{net}", "--granularity", granularity, "--run", run)
    hetcompress(
        "finetune", "--run", run, "--data", "cifar10", "--data-root", options.data_root, "--mac-ratio", options.ratio,
        "--epochs", options.epochs, "-q",
    )  # fmt: skip
    return exported(run, net, granularity, options.ratio, options.epochs, seconds=0)


def row_of(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return both accuracies and the times of a run that is fine-tuned already."""
    manifest = json.loads((run / "run.json").read_text())
    stage = manifest["stages"]["finetune"]
    net = manifest["architecture"]["spec"].removeprefix("hetcompress:")
    data = ("--data", stage["data"]["name"], "--data-root", options.data_root)
    target, epochs = stage["shapes"]["mac_ratio"], stage["train"]["epochs"]
    return exported(run, net, manifest["conversion"]["granularity"], target, epochs, *data, seconds=options.seconds)


def exported(
    run: Path, net: str, granularity: str, ratio: float, epochs: float, *extra: object, seconds: float
) -> dict[str, Any]:
    """Export a fine-tuned run and return what came of it."""
    told = json.loads(
        hetcompress("export", "--run", run, "--onnx", "--int8", "--seconds", seconds, "--force", "--json", *extra)
    )
    int8 = told["result"]["int8"]
    times = [
        {
            "file": timing["name"], "batch": timing["latency"]["batch"], "ms": round(timing["latency"]["median_ms"], 4),
            "ratio": round(timing["ratio"], 3),
            "interval": [round(timing["ratio_low"], 3), round(timing["ratio_high"], 3)],
        }
        for timing in int8["timings"]
    ]  # fmt: skip
    report = json.loads(hetcompress("report", "--run", run, "--no-latency", "--json"))["result"]
    return {
        "net": net, "granularity": granularity, "mac_ratio": ratio, "epochs": epochs,
        "mac_ratio_executed": round(report["mac_ratio_executed"], 3), "density": round(report["density"], 4),
        **({"times": times, "threads": 1} if times else {}), "images": int8["accuracy"]["total"],
        "fp32": percent(int8["fp32"]),
        "int8": percent(int8["accuracy"]), "drop": round(int8["drop"], 2),
        "layers_left_in_fp32": list(int8["fp32_layers"]), "convolutions": int8["kernels"],
    }  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", nargs="+", default=[], metavar="NET=FILE")
    parser.add_argument("--run", type=Path, help="fine-tuned already")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each comparison of times, with --run")
    parser.add_argument("--granularities", nargs="+", default=["channels", "vector"])
    parser.add_argument("--ratio", type=float, default=2.0)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("int8-runs"))
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    found["machine"] = machine().to_json()
    if options.run is not None:
        found["rows"].append(row_of(options.run, options))
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    done = {(made["net"], made["granularity"], made["mac_ratio"]) for made in found["rows"]}
    for item, granularity in itertools.product(options.checkpoint, options.granularities):
        net = item.split("=", 1)[0]
        if (net, granularity, options.ratio) not in done:
            found["rows"].append(row(net, granularity, options))
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(found["rows"][-1], flush=True)


if __name__ == "__main__":
    main()

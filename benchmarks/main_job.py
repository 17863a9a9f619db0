"""The four commands on a checkpoint, timed, with what they found, as one JSON file.

    python benchmarks/main_job.py resnet20-12fca82f.th --data cifar10 --data-root DIR --out benchmarks/main_job.json

Every number of the README's table is in that file.  `--collect RUN` reads a run that was made before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(arguments: list[str], folder: Path) -> float:
    """Run one command in `folder`; returns seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "hetcompress", *arguments], cwd=folder, check=True)
    return time.monotonic() - began


def collect(folder: Path, seconds: dict[str, float]) -> dict[str, object]:
    """Return what a run folder says, without its per-layer tables."""
    manifest = json.loads((folder / "run.json").read_text())
    report = json.loads((folder / "report" / "report.json").read_text())
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    finetune, export = (manifest["stages"][name] for name in ("finetune", "export"))
    finetune["data"]["root"] = None
    for file in export["files"]:
        file["path"] = Path(file["path"]).name
    return {
        "seconds": seconds,
        "source": manifest["source"],
        "architecture": manifest["architecture"],
        "conversion": next(iter(manifest["conversion"]["layers"].values())),  # all alike here
        "finetune": finetune,
        "epochs": epochs,
        "report": {key: value for key, value in report.items() if key != "layers"},
        "export": export,
    }


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--collect", type=Path, metavar="RUN")
    options = parser.parse_args()
    seconds: dict[str, float] = {}
    if options.collect is not None:
        found = collect(options.collect, seconds)
    else:
        root = ["--data-root", str(options.data_root.resolve())] if options.data_root else []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copy(options.checkpoint, folder / "model.pt")
            seconds["convert"] = run(["convert", "model.pt"], folder)
            seconds["finetune"] = run(["finetune", "--data", options.data, *root], folder)
            seconds["report"] = run(["report"], folder)
            seconds["export"] = run(["export", "--onnx"], folder)
            found = collect(folder / "hetrun", seconds)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

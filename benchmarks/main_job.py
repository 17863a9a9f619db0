"""The four commands on a checkpoint, timed, with what they found, as one JSON file.

    python benchmarks/main_job.py resnet20-12fca82f.th --data cifar10 --data-root DIR --out benchmarks/main_job.json

Every number of the README's table is in that file.  The model is exported twice: as it is by default, and with stock
operators only.  `--trained RUN` reports and exports a run that was fine-tuned before.
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
from typing import Any


def run(arguments: list[str], folder: Path) -> float:
    """Run one command in `folder`; returns seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "hetcompress", *arguments], cwd=folder, check=True)
    return time.monotonic() - began


def manifest(folder: Path) -> dict[str, Any]:
    """Return what a run folder says of itself."""
    return dict(json.loads((folder / "run.json").read_text()))


def exported(folder: Path, seconds: dict[str, float], *options: str) -> dict[str, Any]:
    """Export a run; return what was recorded, without places on this machine."""
    out = folder / "-".join(["export", *(option.strip("-") for option in options)])
    command = ["export", "--onnx", "--run", folder.name, "--out", str(out), "--force", *options]
    seconds[" ".join(["export", *options])] = run(command, folder.parent)
    found = dict(manifest(folder)["stages"]["export"])
    for file in found["files"]:
        file["path"] = Path(file["path"]).name
        library = file["details"].get("register_custom_ops_library")
        if library is not None:
            file["details"]["register_custom_ops_library"] = Path(library).name
    return found


def collect(folder: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Report and export a fine-tuned run; return what there is to say, without tables of layers."""
    seconds["report"] = run(["report", "--run", folder.name], folder.parent)
    exports = {"default": exported(folder, seconds), "stock operators": exported(folder, seconds, "--no-kernels")}
    report = json.loads((folder / "report" / "report.json").read_text())
    said = manifest(folder)
    finetune = said["stages"]["finetune"]
    finetune["data"]["root"] = None
    return {
        "seconds": seconds,
        "source": said["source"],
        "architecture": said["architecture"],
        "conversion": next(iter(said["conversion"]["layers"].values())),  # all alike here
        "finetune": finetune,
        "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "report": {key: value for key, value in report.items() if key != "layers"},
        "exports": exports,
    }


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trained", type=Path, metavar="RUN")
    options = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.trained is not None:
            shutil.copytree(options.trained, folder / "hetrun")
        else:
            root = ["--data-root", str(options.data_root.resolve())] if options.data_root else []
            shutil.copy(options.checkpoint, folder / "model.pt")
            seconds["convert"] = run(["convert", "model.pt"], folder)
            seconds["finetune"] = run(["finetune", "--data", options.data, *root], folder)
        found = collect(folder / "hetrun", seconds)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

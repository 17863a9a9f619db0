"""How long does the command line take to answer?  Run: python benchmarks/startup.py --out benchmarks/startup.json

Prints the median wall time of whole processes, in turns, with the bare interpreter as the floor, and which heavy
packages `hetcompress --help` imports (it should be none).  Budget: `hetcompress --help` under 0.3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BUDGET = 0.3
HELP = [sys.executable, "-m", "hetcompress", "--help"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import hetcompress'": [sys.executable, "-c", "import hetcompress"],
    "hetcompress --help": HELP,
    "hetcompress --version": [sys.executable, "-m", "hetcompress", "--version"],
    "hetcompress convert --help": [sys.executable, "-m", "hetcompress", "convert", "--help"],
    "hetcompress finetune --help": [sys.executable, "-m", "hetcompress", "finetune", "--help"],
}
HEAVY = ("torch", "numpy", "torchvision", "onnx", "onnxruntime", "timm", "sklearn", "fvcore", "PIL", "safetensors")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    spent = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return spent


def heavy_imports() -> list[str]:
    """Packages that the help command loads, by the interpreter's own account."""
    log = subprocess.run(
        [sys.executable, "-X", "importtime", *HELP[1:]], check=True, capture_output=True, text=True
    ).stderr
    loaded = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in log.splitlines() if "|" in line}
    return [name for name in HEAVY if name in loaded]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = options.runs
    for command in COMMANDS.values():
        seconds(command)  # compiles byte code and fills the file cache
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(runs)]
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {runs} runs each")
    medians = {}
    for name in COMMANDS:
        times = sorted(each[name] for each in rounds)
        medians[name] = statistics.median(times)
        print(f"{name:32} median {medians[name]:.3f} s   fastest {times[0]:.3f} s   slowest {times[-1]:.3f} s")
    heavy = heavy_imports()
    print(f"heavy packages imported by --help: {', '.join(heavy) or 'none'}")
    within = medians["hetcompress --help"] < BUDGET
    print(f"budget of {BUDGET} s for --help: {'met' if within else 'EXCEEDED'}")
    result = {"python": sys.version.split()[0], "cores": os.cpu_count(), "seconds": medians, "heavy_imports": heavy}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())

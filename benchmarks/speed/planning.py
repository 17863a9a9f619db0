"""How long planning takes: cold, with an empty cache of timings, and from the cache.

    python benchmarks/speed/planning.py --out benchmarks/speed/planning.json [--nets resnet50] [--batch 1]

Random weights, granularity "channels", MAC ratio 2, the same share of every layer; onnxruntime, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from subjects import NETS, Subject

from hetcompress.machine import machine
from hetcompress.planning import PlanSettings, plan


def main() -> None:
    """Plan twice and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=["resnet50"], choices=list(NETS))
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HETCOMPRESS_CACHE"] = f"{folder}/cache"
            subject = Subject(name, Path(folder), None)
            pruned = subject.learned("channels", 2.0).eval()
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                planned = plan(subject.dense, pruned, subject.example, PlanSettings(batch=options.batch))
                seconds.append(round(time.perf_counter() - start, 2))
            assert planned.whole is not None
            cold, *cached = seconds
            rows.append({"net": name, "batch": options.batch, "cold_seconds": cold, "cached_seconds": min(cached)})
            print(rows[-1], flush=True)
    options.out.write_text(json.dumps({"machine": machine().to_json(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

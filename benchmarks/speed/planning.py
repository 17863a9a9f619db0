"""How long planning takes: cold, with an empty cache of timings, and from the cache.

    python benchmarks/speed/planning.py --out benchmarks/speed/planning.json [--nets resnet50] [--batch 1]
        [--granularities channels vector] [--ratio 2]

Random weights, the same share of every layer; onnxruntime, one thread, as `export` plans without options.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from subjects import NETS, Subject

from hetcompress.granularity import GRANULARITIES
from hetcompress.machine import machine
from hetcompress.planning import DEFAULT, plan


def main() -> None:
    """Plan twice and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=["resnet50"], choices=list(NETS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--granularities", nargs="+", default=["channels", "vector"], choices=list(GRANULARITIES))
    parser.add_argument("--ratio", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    settings = dataclasses.replace(DEFAULT, batch=options.batch)
    for name, granularity in itertools.product(options.nets, options.granularities):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HETCOMPRESS_CACHE"] = f"{folder}/cache"
            subject = Subject(name, Path(folder), None)
            pruned = subject.learned(granularity, options.ratio).eval()
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                planned = plan(subject.dense, pruned, subject.example, settings)
                seconds.append(round(time.perf_counter() - start, 2))
            assert planned.whole is not None
            cold, *cached = seconds
            rows.append({
                "net": name, "granularity": granularity, "mac_ratio": options.ratio, "batch": options.batch,
                "kernels": planned.settings.kernels, "cold_seconds": cold, "cached_seconds": min(cached),
            })  # fmt: skip
            print(rows[-1], flush=True)
    options.out.write_text(json.dumps({"machine": machine().to_json(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

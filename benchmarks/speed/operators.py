"""Where the time goes in rows of `speed.py` and `kernel_nets.py`: onnxruntime's own profile, by kind of operator.

    python benchmarks/speed/operators.py --out benchmarks/speed/operators.json --nets mobilenet_v2 \
        --models "channels 2x" "Torch-Pruning 2x" --ratios 2 --threads 1 2 --batches 16

Each net's dense file and each model's, in fp32 and int8, one profile for each number of threads and batch size; with
--kernels also the net of fine shapes in our kernel at each ratio.  Rows are written as they are made; those that are
there are replaced.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from kernel_nets import opened, write
from subjects import NETS, Subject

from hetcompress.cost import count_executed
from hetcompress.graphs import onnx_bytes
from hetcompress.planning import PlanSettings, plan
from hetcompress.profiling import profile_onnx


def files(subject: Subject, options: argparse.Namespace) -> Iterator[tuple[str, float, Path]]:
    """Yield the name, the MAC ratio and the file of everything that is profiled of one net."""
    dense = subject.files("dense", subject.dense)
    yield from (("dense", 1.0, dense[0]), ("dense int8", 1.0, dense[1]))
    for name, make in subject.models(options.ratios).items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.models):
            model = plan(subject.dense, make().eval(), subject.example, PlanSettings()).lowered.model
            ratio = subject.macs / count_executed(model, subject.example).macs
            paths = subject.files(name.replace(" ", "-"), model)
            yield from ((name, ratio, paths[0]), (f"{name} int8", ratio, paths[1]))
    for asked in options.ratios if options.kernels else []:
        model, path = subject.in_kernel(asked), subject.folder / f"kernel-{asked:g}.onnx"
        path.write_bytes(onnx_bytes(model, subject.example))
        yield f"own kernel {asked:g}x", subject.macs / count_executed(model, subject.example).macs, path


def main() -> None:
    """Profile what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", required=True, choices=list(NETS))
    parser.add_argument("--models", nargs="*", default=[], metavar="PATTERN", help="of names, as 'channels *'")
    parser.add_argument("--ratios", nargs="+", type=float, default=[2])
    parser.add_argument("--kernels", action="store_true", help="also fine shapes in our kernel")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NET=FILE")
    options = parser.parse_args()
    checkpoints = dict(item.split("=", 1) for item in options.checkpoint)
    found = opened(options.out)
    for net in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject(net, Path(folder), Path(checkpoints[net]) if net in checkpoints else None)
            places = itertools.product(options.threads, options.batches)
            for (name, ratio, path), (threads, batch) in itertools.product(files(subject, options), places):
                images = torch.randn(batch, *subject.example.shape[1:], generator=torch.Generator().manual_seed(0))
                kinds = [[kind.operator, kind.calls, round(kind.milliseconds, 3)]
                         for kind in profile_onnx(path, images, threads)]  # fmt: skip
                row = {"net": net, "model": name, "threads": threads, "batch": batch}
                others = [other for other in found["rows"] if any(other[key] != value for key, value in row.items())]
                found["rows"] = [*others, {**row, "mac_ratio": round(ratio, 2), "operators": kinds}]
                write(options.out, found)
                print(row, kinds[:4], flush=True)


if __name__ == "__main__":
    main()

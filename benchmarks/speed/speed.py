"""How much of the MAC ratio a clock shows: nets, MAC ratios and rivals, in onnxruntime.

    python benchmarks/speed/speed.py --out benchmarks/speed/speed.json [--nets vgg16 resnet34] [--ratios 2 5]

Every row is one compressed model against its dense original, interleaved in one run.  "realised" is the time ratio over
the executed MAC ratio.  Shapes are what `prune` chooses by the magnitude of the weights: of the given checkpoint where
there is one (--checkpoint NET=FILE); of a random initialisation otherwise, where every layer keeps the same share since
such magnitudes say nothing of layers, and the row says so.  Rivals: HetConv's
fixed comb, and channel pruning by Torch-Pruning at the same MAC ratio (pip install torch-pruning; left out without it).
Rows are written as they are made; a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetcompress import pipeline
from hetcompress.artifacts import RunFolder
from hetcompress.cost import count_executed, layer_macs
from hetcompress.errors import HetCompressError
from hetcompress.latency import compare_latency
from hetcompress.lowering import fold_batch_norms
from hetcompress.machine import machine
from hetcompress.models import parse_architecture
from hetcompress.planning import PlanSettings, plan


@dataclasses.dataclass(frozen=True)
class Net:
    """An architecture and the image size it is timed at."""

    spec: str
    size: int


NETS = {
    "vgg16": Net("hetcompress:vgg16_bn", 32),
    "resnet56": Net("hetcompress:resnet56", 32),
    "resnet34": Net("torchvision:resnet34", 224),
    "resnet50": Net("torchvision:resnet50", 224),
    "mobilenet_v2": Net("torchvision:mobilenet_v2", 224),
}
KERNEL = "fine, own kernel"
COMBS = (2, 4, 8, 16)
FAMILIES = {"centre": "channels", "free": KERNEL}


def macs(model: nn.Module, example: torch.Tensor) -> int:
    """Return the MACs of a plain model."""
    return sum(layer.dense for layer in layer_macs(model, example).values())


def learned(
    folder: Path, net: Net, checkpoint: Path, ratios: list[float], *, evenly: bool
) -> Iterator[tuple[str, nn.Module]]:
    """Yield our nets, shapes chosen by magnitude: whole channels for stock operators, fine shapes for our kernel."""
    for family, ratio in itertools.product(FAMILIES, ratios):
        run = folder / f"{family}-{ratio}"
        pipeline.convert(checkpoint, run=run, arch=net.spec, family=family)
        try:
            pipeline.prune(run, mac_ratio=ratio, evenly=evenly)
        except HetCompressError as error:
            print(f"  {family} {ratio:g}x: {error}")
            continue
        yield f"{FAMILIES[family]} {ratio:g}x", RunFolder.open(run).pruned_model()


def combs(folder: Path, net: Net, checkpoint: Path) -> Iterator[tuple[str, nn.Module]]:
    """Yield HetConv nets."""
    for parts in COMBS:
        run = folder / f"comb-{parts}"
        pipeline.convert(checkpoint, run=run, arch=net.spec, family="hetconv", family_arguments={"parts": parts})
        pipeline.prune(run)
        yield f"HetConv P{parts}", RunFolder.open(run).pruned_model()


def channel_pruned(dense: nn.Module, example: torch.Tensor, ratios: list[float]) -> Iterator[tuple[str, nn.Module]]:
    """Yield nets pruned by Torch-Pruning, its ratio searched until the MACs fit."""
    try:
        import torch_pruning
    except ImportError:
        return
    full = macs(dense, example)
    for ratio in ratios:
        low, high, best = 0.0, 0.95, dense
        for _ in range(8):
            middle = (low + high) / 2
            model = copy.deepcopy(dense)
            heads = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
            torch_pruning.pruner.MagnitudePruner(
                model, example, torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=middle,
                ignored_layers=heads, round_to=16,
            ).step()  # fmt: skip
            best = model
            low, high = (middle, high) if full / macs(model, example) < ratio else (low, middle)
        yield f"channel pruning {ratio:g}x", best


def measure(
    dense: nn.Module, compact: nn.Module, example: torch.Tensor, threads: int, seconds: float, *, kernels: bool
) -> list[dict[str, Any]]:
    """Plan, lower and time one model at batch 1 and 16."""
    rows = []
    folded = fold_batch_norms(dense, example)
    for batch in (1, 16):
        planned = plan(folded, compact, example, PlanSettings(batch=batch, threads=threads, kernels=kernels))
        model = planned.lowered.model
        compared = compare_latency(
            folded, model, tuple(example.shape[1:]), batches=(batch,), threads=threads, runtimes=("onnxruntime",),
            seconds=seconds,
        )[0]  # fmt: skip
        ratio = macs(folded, example) / count_executed(model, example).macs
        rows.append(
            {
                "batch": batch, "threads": threads,
                "mac_ratio": round(ratio, 3), "time_ratio": round(compared.ratio, 3),
                "interval": [round(compared.ratio_low, 3), round(compared.ratio_high, 3)],
                "realised": round(compared.ratio / ratio, 3), "verdict": compared.verdict,
                "dense_ms": round(compared.dense.median_ms, 3), "compact_ms": round(compared.compact.median_ms, 3),
                "forms": planned.summary()["forms"], "note": planned.note,
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| net | model | batch | threads | MAC ratio | time ratio | realised |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['net']} ({row['weights']}) | {row['model']} | {row['batch']} | {row['threads']} "
        f"| {row['mac_ratio']:.2f} | {row['time_ratio']:.2f} | {row['realised']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 3, 5, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NET=FILE")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    checkpoints = dict(item.split("=", 1) for item in options.checkpoint)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    found["machine"] = machine().to_json()
    done = {(row["net"], row["model"], row["threads"]) for row in found["rows"]}
    for name in options.nets:
        net = NETS[name]
        example = torch.zeros(1, 3, net.size, net.size)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            torch.manual_seed(0)
            checkpoint = Path(checkpoints.get(name, folder / "random.pt"))
            if name not in checkpoints:
                torch.save(parse_architecture(net.spec).build().state_dict(), checkpoint)
            pipeline.convert(checkpoint, run=folder / "source", arch=net.spec)
            dense = RunFolder.open(folder / "source").dense_model().eval()
            models = {
                **dict(learned(folder, net, checkpoint, options.ratios, evenly=name not in checkpoints)),
                **dict(combs(folder, net, checkpoint)),
                **dict(channel_pruned(dense, example, options.ratios)),
            }
            for (model_name, model), threads in ((item, n) for item in models.items() for n in options.threads):
                if (name, model_name, threads) in done:
                    continue
                weights = "trained" if name in checkpoints else "random"
                for row in measure(
                    dense, model.eval(), example, threads, options.seconds, kernels=model_name.startswith(KERNEL)
                ):
                    found["rows"].append({"net": name, "weights": weights, "model": model_name, **row})
                    print(table(found["rows"][-1:]).splitlines()[-1], flush=True)
                options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found["rows"]))


if __name__ == "__main__":
    main()

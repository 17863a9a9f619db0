"""Accuracy against MACs and against measured time, as SVG, from the rows of `accuracy.py`.

    python benchmarks/accuracy/draw.py --out docs/figures

One figure for each net, data set and axis: `NET-DATA-macs.svg`, `NET-DATA-time-stock.svg`, `NET-DATA-time-kernels.svg`.
Filled marks were measured here, at the mean over seeds, with all seeds as thin marks; those of a method are joined.
Hollow grey ones are published by others (`published.json`), with their own baselines and schedules, and stand beside
MACs alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
NETS = {
    "hetcompress:resnet20": "ResNet-20", "hetcompress:resnet56": "ResNet-56", "hetcompress:vgg16_bn": "VGG16-BN",
    "torchvision:resnet34": "ResNet-34", "torchvision:resnet50": "ResNet-50",
}  # fmt: skip
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagefolder": "ImageNet"}
MARKS = {
    "ours": ("o", "hetcompress"),
    "dense": ("s", "dense, trained on"),
    "unstructured": ("*", "single weights (a bound: nothing executes them)"),
    "hetconv": ("D", "HetConv"),
    "tp-magnitude": ("^", "Torch-Pruning, magnitude"),
    "tp-group-norm": ("v", "Torch-Pruning, group norm"),
    "tp-bn-scale": ("<", "Torch-Pruning, batch-norm scales"),
}
FORMS = {"stock": "stock operators", "kernels": "own kernel; peers stock"}
Point = tuple[float, float]


def points(rows: Sequence[Mapping[str, Any]], axis: str) -> dict[tuple[str, ...], list[Point]]:
    """Return ratio and last-epoch accuracy of each seed, by method and what else tells rows apart."""
    found: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for row in rows:
        ratio = ratio_of(row, axis)
        if ratio is not None:
            key = row["key"]
            rest = {name: value for name, value in key.items() if name not in ("method", "seed")}
            found[key["method"], json.dumps(rest, sort_keys=True)].append((ratio, row["last_epoch"]))
    return dict(found)


def ratio_of(row: Mapping[str, Any], axis: str) -> float | None:
    """Return dense over compressed MACs or measured time at batch 1, or None where it was not measured."""
    if axis == "macs":
        # the bound without any structure is not executed: its MACs are those inside the mask
        return float(row.get("mac_ratio_executed", row["mac_ratio_effective"]))
    times = row.get("time", {})
    # a plain net has no layers for our kernel
    found = times.get(axis) or (times.get("stock") if row["key"]["method"].startswith("tp-") else None)
    return float(found[0]["ratio"]) if found else None


def draw(
    title: str, axis: str, own: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], out: Path
) -> None:
    """Write one figure."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    by_setting = points(own, axis)
    for place, (method, (mark, label)) in enumerate(MARKS.items()):
        settings = [seeds for (name, _), seeds in by_setting.items() if name == method]
        if settings:
            means = sorted(tuple(map(statistics.mean, zip(*seeds, strict=True))) for seeds in settings)
            single = [point for seeds in settings for point in seeds]
            axes.plot(*zip(*single, strict=True), mark, color=f"C{place}", markersize=3, alpha=0.5)
            axes.plot(*zip(*means, strict=True), f"{mark}-", color=f"C{place}", label=label, markersize=8)
    source = statistics.mean(row["source"] for row in own)
    axes.plot(1, source, "o", color="0.3", label=f"source, {source:.2f} %")
    axes.axhline(source, color="0.3", linestyle=":")
    for row in others if axis == "macs" else ():
        label = "published by others" if row is others[0] else None
        axes.plot(row["mac_ratio"], row["accuracy"], "o", color="0.55", fillstyle="none", label=label)
        place = (row["mac_ratio"], row["accuracy"])
        axes.annotate(row["method"], place, (4, 3), textcoords="offset points", fontsize=5, color="0.45")
    what = "MACs" if axis == "macs" else f"measured time, batch 1, one thread ({FORMS[axis]})"
    axes.set(title=title, xlabel=f"dense over compressed {what}", ylabel="top-1, last epoch, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    # without a date the same rows give the same file
    figure.savefig(out, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    print(out)


def main() -> None:
    """Draw all figures that there are rows for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=HERE / "rows.jsonl")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if not options.rows.exists():
        parser.error(f"no {options.rows}: make rows with accuracy.py first")
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hetcompress"
    mpl.rcParams["svg.fonttype"] = "none"
    published = json.loads((HERE / "published.json").read_text())["rows"]
    by_place: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in options.rows.read_text().splitlines():
        row = json.loads(line)
        by_place[NETS.get(row["net"], row["net"].rpartition(":")[2]), DATA[row["data"]]].append(row)
    for (net, data), own in by_place.items():
        others = [row for row in published if (row["net"], row["data"]) == (net, data)]
        for axis in ("macs", "stock", "kernels"):
            if points(own, axis):
                kind = axis if axis == "macs" else f"time-{axis}"
                splits = ", ".join(sorted({row["split"] for row in own}))
                draw(f"{net}, {data} ({splits})", axis, own, others, options.out / f"{net}-{data}-{kind}.svg".lower())


if __name__ == "__main__":
    main()

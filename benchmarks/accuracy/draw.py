"""Accuracy against MACs and against measured time, as SVG, from the rows of `accuracy.py`.

    python benchmarks/accuracy/draw.py --out docs/figures

One figure for each net, data set and axis: `NET-DATA-macs.svg`, `NET-DATA-time-stock.svg`, `NET-DATA-time-kernels.svg`.
Coloured marks were measured here: means over seeds, with bars of one standard deviation; those of a method are joined.
Hollow ones of them were brought to the time of ours, faint ones are of recipes and defaults that are no more.  Grey
ones are published by others (`published.json`), with their own baselines and schedules, and stand beside MACs alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib import ticker
from rows import is_current
from table import MATCHED, NAMES, earlier, mac_ratio, operators

HERE = Path(__file__).parent
NETS = {
    "hetcompress:resnet20": "ResNet-20", "hetcompress:resnet56": "ResNet-56", "hetcompress:vgg16_bn": "VGG16-BN",
    "torchvision:resnet34": "ResNet-34", "torchvision:resnet50": "ResNet-50",
}  # fmt: skip
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagefolder": "ImageNet"}
MARKS = dict(zip(NAMES, "os*D^>v<", strict=True))
FORMS = {"stock": "stock operators", "kernels": "hetcompress with its kernel, others stock operators"}
HOLLOW = "ovsD^p<h>P*X"
TICKS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
Mark = tuple[float, float, float]
Line = tuple[str, str, str]
"""A method, what is said of one that was brought to a time, and of one that is no more."""
Row = Mapping[str, Any]


def lines(rows: Sequence[Row], axis: str) -> dict[Line, list[Mark]]:
    """Return mean ratio, mean accuracy and its spread of the settings of rows that are `shown`.

    Those of a method are one line, those that were brought to a time another, and so are those of recipes and defaults
    that are no more.
    """
    found: dict[Line, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = json.dumps([setting(row), row["recipe_sha256"]], sort_keys=True)
        line = (row["key"]["method"], MATCHED.get(row["key"].get("match"), ""), earlier(row))
        found[line][group].append((ratio_of(row, axis), row["last_epoch"]))
    order = sorted(found, key=lambda line: (line[2], list(NAMES).index(line[0]), line[1]))
    return {line: sorted(map(mean_and_spread, found[line].values())) for line in order}


def ratio_of(row: Row, axis: str) -> float | None:
    """Return dense over compressed MACs or measured time at batch 1, or None where it was not measured."""
    if axis == "macs":
        return mac_ratio(row)
    found = row.get("time", {}).get(operators(row) if axis == "kernels" else axis)
    return float(found[0]["ratio"]) if found else None


def shown(rows: Sequence[Row], axis: str) -> list[Row]:
    """Return the rows to draw: with a ratio, of one machine where that is of times, and the newest settings of each."""
    found = [row for row in rows if ratio_of(row, axis) is not None]
    if axis != "macs":
        ((machine, _),) = Counter(row["machine"]["cpu"] for row in found).most_common(1) or [("", 0)]
        found = [row for row in found if row["machine"]["cpu"] == machine]
    renewed = [setting(row) for row in found if is_current(row)]
    return [row for row in found if is_current(row) or setting(row) not in renewed]


def setting(row: Row) -> dict[str, Any]:
    """Return what tells a row from others but its seed."""
    return {name: value for name, value in row["key"].items() if name != "seed"}


def mean_and_spread(seeds: Sequence[tuple[float, float]]) -> Mark:
    """Return the mean ratio, the mean accuracy and the standard deviation of the accuracies, NaN of a single one."""
    ratios, accuracies = zip(*seeds, strict=True)
    spread = statistics.stdev(accuracies) if len(seeds) > 1 else math.nan
    return statistics.mean(ratios), statistics.mean(accuracies), spread


def draw(title: str, axis: str, own: Sequence[Row], others: Sequence[Row], out: Path) -> None:
    """Write one figure, and what it shows in numbers into its description."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    drawn = lines(own, axis)
    for (method, matched, old), marks in drawn.items():
        axes.errorbar(
            *zip(*marks, strict=True),
            fmt=MARKS[method] + ("--" if matched or old else "-"),
            color=f"C{list(NAMES).index(method)}",
            fillstyle="none" if matched else "full",
            alpha=0.4 if old else 1.0,
            label=NAMES[method].partition(":")[0] + matched + old.replace("`", ""),
            markersize=7,
            capsize=3,
        )
    source = statistics.mean(row["source"] for row in list(filter(is_current, own)) or own)
    axes.plot(1, source, "o", color="0.3", label=f"source, {source:.2f} %")
    axes.axhline(source, color="0.3", linestyle=":")
    published = defaultdict(list)
    for row in others if axis == "macs" else ():
        name = f"{row['method']} (published{'' if 'accuracy' in row else ' as a difference'})"
        published[name].append((row["mac_ratio"], row.get("accuracy") or source + row["difference"]))
    for mark, (name, found) in zip(itertools.cycle(HOLLOW), published.items(), strict=False):
        axes.plot(*zip(*found, strict=True), mark, color="0.5", fillstyle="none", label=name)
    cpu = own[0].get("machine", {}).get("cpu")
    what = "MACs" if axis == "macs" else f"time at batch 1, one thread\n({cpu};\n{FORMS[axis]})"
    axes.set(title=title, xlabel=f"dense over compressed {what}", ylabel="top-1, last epoch, %", xscale="log")
    axes.xaxis.set_major_locator(ticker.FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(alpha=0.3)
    said = "published: other sources, as reported,\nsome of the best epoch" if published else None
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), title=said, title_fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = "; ".join(
        f"{''.join(line)}: {', '.join(f'{accuracy:.2f} at {ratio:.2f}' for ratio, accuracy, _ in marks)}"
        for line, marks in drawn.items()
    )
    # without a date the same rows give the same file
    figure.savefig(out, metadata={"Date": None, "Description": numbers}, bbox_inches="tight")
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
    by_place: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for line in options.rows.read_text().splitlines():
        row = json.loads(line)
        by_place[NETS.get(row["net"], row["net"].rpartition(":")[2]), DATA[row["data"]]].append(row)
    for (net, data), own in by_place.items():
        others = [row for row in published if (row["net"], row["data"]) == (net, data)]
        for axis in ("macs", "stock", "kernels"):
            rows = shown(own, axis)
            if axis == "macs" or sum(map(len, lines(rows, axis).values())) > 1:  # a single time compares nothing
                kind = axis if axis == "macs" else f"time-{axis}"
                splits = ", ".join(sorted({row["split"] for row in rows}))
                draw(f"{net}, {data} ({splits})", axis, rows, others, options.out / f"{net}-{data}-{kind}.svg".lower())


if __name__ == "__main__":
    main()

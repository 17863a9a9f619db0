"""The rows of `accuracy.py`, `ablation.py`, `grains.py` and `published.json` as tables in Markdown.

    python benchmarks/accuracy/table.py --into docs/method.md

Means, where there are several seeds.  Prints the tables, or writes each between the two marks of a page.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import is_current, rows_of

from hetcompress.recipes import load_recipe, recipe_names

HERE = Path(__file__).parent
MARKS = ("<!-- rows of benchmarks/accuracy -->", "<!-- end of rows -->")
GRAIN_MARKS = ("<!-- rows of benchmarks/accuracy/grains.py -->", "<!-- end of grains -->")
ABLATION_MARKS = ("<!-- rows of benchmarks/accuracy/ablation.py -->", "<!-- end of changes -->")
NAMES = {
    "ours": "hetcompress",
    "dense": "dense, trained on",
    "unstructured": "single weights: a bound, nothing executes them",
    "hetconv": "HetConv",
    "tp-magnitude": "Torch-Pruning, magnitude",
    "tp-uniform": "Torch-Pruning, magnitude, all layers alike",
    "tp-group-norm": "Torch-Pruning, group norm",
    "tp-bn-scale": "Torch-Pruning, batch-norm scales",
}
PUBLISHED_MARKS = ("<!-- rows of benchmarks/accuracy/published.json -->", "<!-- end of published -->")
PROCESSORS = {"AMD EPYC (family 26, model 2)": "Zen 5", "AMD EPYC (family 25, model 17)": "Zen 4"}
"""What processors are called in short."""
MATCHED = {"stock": ", at our time with stock operators", "kernels": ", at our time"}
"""What is said of a peer that is not brought to the MACs of ours."""
HEAD = """\
| recipe | method | epochs, with the source's | seeds | MAC ratio | weight ratio | time ratio, batch 1 | batch 16 | timed on | accuracy, last epoch, % | best epoch |
|---|---|---|---|---|---|---|---|---|---|---|"""  # noqa: E501
ABLATION_HEAD = """\
| recipe | epochs | what is changed | seeds | after stage 1, pruned, recalibrated | accuracy, % | against the recipe |
|---|---|---|---|---|---|---|"""
GRAINS_HEAD = """\
| granularity | operators | layers | MAC ratio | time ratio, batch 1 | pruned, recalibrated | accuracy, % |
|---|---|---|---|---|---|---|"""
PUBLISHED_HEAD = """\
| data, net | method | MAC ratio | accuracy, % | of the dense net | source |
|---|---|---|---|---|---|"""
Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Return the table, recipe by recipe, the methods in the order of `NAMES`."""
    settings: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        rest = {name: value for name, value in row["key"].items() if name != "seed"}
        settings[json.dumps([rest, row["recipe_sha256"], is_current(row)])].append(row)
    order = list(NAMES)
    groups = sorted(
        settings.values(), key=lambda seeds: (seeds[0]["key"]["recipe"], order.index(seeds[0]["key"]["method"]))
    )
    return "\n".join([HEAD, *map(line, groups)])


def ablation(rows: Sequence[Row]) -> str:
    """Return the table of changes: recipe by recipe and length by length, the best first."""
    runs: dict[tuple[str, float], dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in filter(is_current, rows):
        key = row["key"]
        runs[key["recipe"], key["epochs"]][key["change"]][key["seed"]] = row
    lines = [ABLATION_HEAD]
    for (recipe, epochs), changes in sorted(runs.items()):
        best_first = sorted(changes.items(), key=lambda item: -mean_of(item[1], "after stage 2"))
        for change, seeds in best_first:
            mark = "**" if change == "nothing" else ""
            cells = (
                f"`{recipe}`", f"{epochs:g}", change, len(seeds), f"{mean_of(seeds, 'after recalibration'):.2f}",
                f"{mean_of(seeds, 'after stage 2'):.2f}", gain(seeds, changes.get("nothing", {})),
            )  # fmt: skip
            lines.append(f"| {' | '.join(f'{mark}{cell}{mark}' if cell != '' else '' for cell in cells)} |")
    return "\n".join(lines)


def grains(rows: Sequence[Row]) -> str:
    """Return the table of granularities at one time."""
    lines = [GRAINS_HEAD]
    for row in rows:
        time, key = row["time"], row["key"]
        cells = (
            f"`{key['granularity']}`", "with our kernel" if key["kernels"] else "stock",
            "; ".join(f"{count} `{grain}`" for grain, count in row["grains"].items()), f"{row['mac_ratio']:.2f}",
            f"{time[0]['ratio']:.2f}" if time else "", f"{row['after_recalibration']:.2f}", f"{row['last_epoch']:.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def published(rows: Sequence[Row]) -> str:
    """Return the table of what others publish; of some, only the difference to the dense net is known."""
    lines = [PUBLISHED_HEAD]
    for row in rows:
        accuracy = f"{row['accuracy']:.2f}" if "accuracy" in row else f"{row['difference']:+.2f}"
        dense = f"{row['dense_accuracy']:.2f}" if row.get("dense_accuracy") else ""
        place = f"{row['data']}, {row['net']}"
        cells = (place, row["method"], f"{row['mac_ratio']:.2f}", accuracy, dense, row["source"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_of(seeds: Mapping[int, Row], name: str) -> float:
    """Return the mean of an accuracy over seeds."""
    return statistics.mean(row[name] for row in seeds.values())


def gain(seeds: Mapping[int, Row], unchanged: Mapping[int, Row]) -> str:
    """Return the mean gain over the unchanged recipe, over the seeds that both have; empty for itself or where none."""
    gains = [
        row["after stage 2"] - unchanged[seed]["after stage 2"]
        for seed, row in seeds.items()
        if seed in unchanged and row is not unchanged[seed]
    ]
    return f"{statistics.mean(gains):+.2f}" if gains else ""


def line(seeds: Sequence[Row]) -> str:
    """Return the line of the rows that differ in their seeds alone."""
    key = seeds[0]["key"]
    name = (
        NAMES[key["method"]] + (f", P = {key['parts']}" if "parts" in key else "") + MATCHED.get(key.get("match"), "")
    ) + earlier(seeds[0])
    ratio = statistics.mean(map(mac_ratio, seeds))
    times = [time_ratio(seeds, place) for place in (0, 1)]
    epochs = seeds[0]["settings"]["train"]["epochs"]
    before = seeds[0].get("source_epochs")
    all_epochs = f"{epochs:g}" if before is None else f"{before} + {epochs:g}"
    weights = statistics.mean(row["weight_ratio"] for row in seeds)
    best = statistics.mean(row["best_epoch"] for row in seeds)
    cells = (
        f"`{key['recipe']}`", name, all_epochs, len(seeds), f"{ratio:.2f}", f"{weights:.2f}", *times, timed_on(seeds),
        accuracy(seeds), f"{best:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def earlier(row: Row) -> str:
    """Return what is said of a row that its recipe does not give any more, after its name."""
    if is_current(row):
        return ""
    name = row["key"]["recipe"]
    same = name in recipe_names() and load_recipe(name).sha256 == row["recipe_sha256"]
    return f" (shapes by `{row['settings']['shapes']['method']}`)" if same else " (an earlier recipe)"


def mac_ratio(row: Row) -> float:
    """Return dense over executed MACs of the net that is timed, or, where none is, of that with the fewest.

    The bound without any structure is not executed: its MACs are those inside the mask.
    """
    there = row.get("executed", {}).get(operators(row), {})
    return float(there.get("mac_ratio") or row.get("mac_ratio_executed", row["mac_ratio_effective"]))


def time_ratio(seeds: Sequence[Row], place: int) -> str:
    """Return the mean time ratio of a batch, ours with our kernel and others with stock operators."""
    found = [row["time"].get(operators(row)) for row in seeds if row.get("time")]
    return f"{statistics.mean(one[place]['ratio'] for one in found if one):.2f}" if any(found) else ""


def operators(row: Row) -> str:
    """Return with which operators a row stands beside others."""
    return "kernels" if row["key"]["method"] == "ours" else "stock"


def timed_on(seeds: Sequence[Row]) -> str:
    """Return the processors on which times were measured, and of how many seeds, where that was not all."""
    timed = [row for row in seeds if row.get("time")]
    some = f" ({len(timed)} of the seeds)" if 0 < len(timed) < len(seeds) else ""
    names = {PROCESSORS.get(row["machine"]["cpu"], row["machine"]["cpu"]) for row in timed}
    return ", ".join(sorted(names)) + some


def accuracy(seeds: Sequence[Row]) -> str:
    """Return the mean of the last epochs, with the standard deviation where there are several seeds."""
    ends = [row["last_epoch"] for row in seeds]
    return f"{statistics.mean(ends):.2f}" + (f" ± {statistics.stdev(ends):.2f}" if len(ends) > 1 else "")


def tables(folder: Path) -> dict[tuple[str, str], str]:
    """Return the tables of the files in a folder by the marks between which they belong."""
    found = {name: rows_of(folder / f"{name}.jsonl") for name in ("rows", "ablation", "grains")}
    return {
        MARKS: table(found["rows"]), ABLATION_MARKS: ablation(found["ablation"]), GRAIN_MARKS: grains(found["grains"]),
        PUBLISHED_MARKS: published(json.loads((HERE / "published.json").read_text())["rows"]),
    }  # fmt: skip


def put(page: str, texts: Mapping[tuple[str, str], str]) -> str:
    """Return a page with texts between their marks."""
    for (begin, end), text in texts.items():
        before, _, rest = page.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise SystemExit(f"the page needs two lines: {begin} and {end}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=HERE, help="folder of the rows")
    parser.add_argument("--into", type=Path, help="a page with the marks of all")
    options = parser.parse_args()
    texts = tables(options.rows)
    if options.into is None:
        print("\n\n".join(texts.values()))
    else:
        options.into.write_text(put(options.into.read_text(), texts))


if __name__ == "__main__":
    main()

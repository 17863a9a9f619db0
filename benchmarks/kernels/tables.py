"""The tables of docs/kernel-speed.md, from the JSON of layers.py and ../speed/kernel_nets.py.

python benchmarks/kernels/tables.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NETS = HERE.parent / "speed"
PAGE = HERE.parents[1] / "docs" / "kernel-speed.md"
RUNTIMES = ("onnxruntime", "torch")
FILES = ("", "_avx2", "_zen4", "_avx2_zen4")
"""Ends of the names of files: the newest, with AVX2 alone, and those of another processor."""
PLACES = ((1, 1), (1, 16), (2, 1), (2, 16))
"""Threads and batch."""

Row = dict[str, Any]


def markdown(head: Iterable[object], lines: Iterable[Iterable[object]]) -> str:
    """Return a table."""
    cells = [list(head), *map(list, lines)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in cells)


def on(machine: Row) -> str:
    """Return what was measured on."""
    flags = " ".join(machine["flags"])
    return f"{machine['cpu']} ({flags}), onnxruntime {machine['onnxruntime']}, torch {machine['torch']}"


def nets(found: Row, threads: int) -> str:
    """Return the table of whole nets: time ratios, and in brackets what they realise of the MAC ratio."""
    columns = list(itertools.product(RUNTIMES, (1, 16)))
    cells: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in found["rows"]:
        key = row["key"]
        for model, times in row["models"].items():
            if key["threads"] == threads:
                of_line = cells.setdefault((key["net"], key["ratio"], model), {})
                of_line[key["runtime"], key["batch"]] = times
    lines = []
    for (net, _, model), at in sorted(cells.items(), key=lambda item: item[0][:2]):
        ratio = next(iter(at.values()))["mac_ratio"]
        times = (f"{at[c]['time_ratio']:.2f} ({at[c]['realised']:.2f})" if c in at else "" for c in columns)
        lines.append([net, model, f"{ratio:.2f}", *times])
    return markdown(["net", "model", "MAC ratio", *(f"{runtime}, batch {n}" for runtime, n in columns)], lines)


def layers(found: Row, threads: int, batch: int) -> str:
    """Return the table of single layers: times as fast as the dense layer, and the share of the own dense rate."""
    densities = sorted({row["density"] for row in found["rows"]}, reverse=True)
    lines = []
    chosen = [row for row in found["rows"] if (row["threads"], row["batch"]) == (threads, batch)]
    for layer, of_layer in itertools.groupby(chosen, key=lambda row: row["layer"]):
        rows = {(row["form"], row["density"]): row for row in of_layer}
        blocked = [rows["blocked", density] for density in densities]
        lines.append(
            [layer, f"{100 * rows['dense', 1.0]['of_peak']:.0f} %", f"{100 * blocked[0]['of_peak']:.0f} %"]
            + [
                f"{row['speed']:.2f}" + (f" ({row['of_own_dense']:.2f})" if row["density"] < 1 else "")
                for row in blocked
            ]
        )
    head = ["layer", "onnxruntime, of peak", "ours, of peak", *(f"{density:g}" for density in densities)]
    return markdown(head, lines)


def ranges(found: Row) -> str:
    """Return the table of the least and the most over layers."""
    lines = []
    forms = {
        "torch": "torch, dense", "planar": "ours, planar", "blocked": "ours, blocked", "stock": "stock form",
        "channels": "fewer channels",
    }  # fmt: skip
    densities = sorted({row["density"] for row in found["rows"]}, reverse=True)
    for (threads, batch), kernel, form in itertools.product(PLACES, ("3x3", "1x1"), forms):
        rows = [
            row for row in found["rows"]
            if (row["threads"], row["batch"], row["form"]) == (threads, batch, form) and kernel in row["layer"]
        ]  # fmt: skip
        cells = []
        for density in densities:
            speeds = [row["speed"] for row in rows if row["density"] == density]
            cells.append(f"{min(speeds):.2g} to {max(speeds):.2g}" if speeds else "")
        if rows:
            lines.append([threads, batch, kernel, forms[form], *cells])
    return markdown(["threads", "batch", "layers", "form", *(f"{density:g}" for density in densities)], lines)


def loaded(path: Path) -> Row | None:
    """Return the results; None where nothing has been measured."""
    return json.loads(path.read_text()) if path.exists() else None


def sections() -> dict[str, str]:
    """Return the tables by the names of their places in the page."""
    made = {}
    for suffix in FILES:
        if (whole := loaded(NETS / f"kernel_nets{suffix}.json")) is not None:
            made[f"nets{suffix}"] = f"{on(whole['machine'])}.\n\n" + "\n\n".join(
                f"{'One thread' if threads == 1 else 'Two threads'}:\n\n{nets(whole, threads)}"
                for threads in (1, 2)
                if any(row["key"]["threads"] == threads for row in whole["rows"])
            )
        if (single := loaded(HERE / f"layers{suffix}.json")) is not None:
            made[f"ranges{suffix}"] = (
                f"{on(single['machine'])}; {single['peak_gflops']:.0f} GFLOP/s a core.\n\n{ranges(single)}"
            )
        if single is not None and not suffix:
            made |= {f"layers, batch {batch}": layers(single, 1, batch) for batch in (1, 16)}
    return made


def main() -> None:
    """Put the tables between their marks."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in sections().items():
        before, begin, rest = page.partition(f"<!-- begin: tables.py: {name} -->")
        _, end, after = rest.partition("<!-- end -->")
        if not (begin and end):
            raise SystemExit(f"{PAGE} has no place for {name}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

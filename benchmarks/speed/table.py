"""The rows of speed.json as a table in Markdown: a line for each compressed net, its times side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["table", "write_between_marks"]

MARKS = ("<!-- begin: speed.py --docs -->", "<!-- end -->")
COLUMNS = ((1, 1), (1, 16), (2, 1), (2, 16))
"""Threads and batch."""
HEAD = (
    "net", "model", "MAC ratio", "1 thread, batch 1", "1 thread, batch 16", "2 threads, batch 1", "2 threads, batch 16",
    "int8: 1 thread, batch 1", "int8: 1 thread, batch 16", "int8: 2 threads, batch 1", "int8: 2 threads, batch 16",
)  # fmt: skip
FAMILIES = ("dense", "channels", "channels, fewer weights", "whole", "Torch-Pruning", "HetConv")

Row = dict[str, Any]


def table(found: dict[str, Any]) -> str:
    """Return a line on the machine, and the table: time ratios to the dense net in fp32, realised share in brackets.

    Args:
        found: As `speed.py` writes it.
    """
    machine, versions = found["machine"], found["versions"]
    measured = ", ".join(f"{package} {version}" for package, version in versions.items())
    lines = [f"{machine['cpu']} ({', '.join(machine['flags'])}), {measured}.", ""]
    lines += [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    rows = sorted(found["rows"], key=_name)
    for net, of_net in itertools.groupby(rows, key=_name):
        own = sorted(of_net, key=_order)
        lines.append(_dense_line(net, own))
        lines += [_line(net, model, list(same)) for model, same in itertools.groupby(own, key=lambda row: row["model"])]
    return "\n".join(lines)


def write_between_marks(page: Path, text: str) -> None:
    """Put text between the marks of a page, in place of what stands there."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise SystemExit(f"{page} lacks the marks {MARKS[0]} and {MARKS[1]}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _dense_line(net: str, rows: Sequence[Row]) -> str:
    """Return the dense net's milliseconds, and what int8 alone gains."""
    cells = []
    for place in COLUMNS:
        times = [row["milliseconds"]["dense"] for row in rows if (row["threads"], row["batch"]) == place]
        middle = sorted(times)[len(times) // 2] if times else 0
        cells.append(f"{middle:.{max(0, 2 - math.floor(math.log10(middle)))}f} ms" if times else "")
    for place in COLUMNS:
        ratios = [row["dense_int8_ratio"] for row in rows if (row["threads"], row["batch"]) == place]
        cells.append(f"{sorted(ratios)[len(ratios) // 2]:.1f}" if ratios else "")
    return f"| {net} | dense | 1 | {' | '.join(cells)} |"


def _line(net: str, model: str, rows: Sequence[Row]) -> str:
    at = {(row["threads"], row["batch"]): row for row in rows}
    ratios = [row["mac_ratio"] for row in rows]
    macs = f"{min(ratios):.2f}" + (f" to {max(ratios):.2f}" if max(ratios) > 1.005 * min(ratios) else "")
    cells = [f"{at[place]['time_ratio']:.2f} ({at[place]['realised']:.2f})" if place in at else "" for place in COLUMNS]
    cells += [f"{at[place]['int8_ratio']:.1f}" if place in at else "" for place in COLUMNS]
    return f"| {net} | {model} | {macs} | {' | '.join(cells)} |"


def _name(row: Row) -> str:
    return row["net"] + (", trained" if row["weights"] == "trained" else "")


def _order(row: Row) -> tuple[int, float]:
    family, _, size = row["model"].rpartition(" ")
    return FAMILIES.index(family), float(size.strip("Px"))

"""The rows of speed.json as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["table"]

HEAD = [
    "net", "model", "threads", "batch", "MAC ratio", "time ratio", "realised", "int8", "dense int8", "ms dense", "ms"
]  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line for each row; ratios of time relate to the dense net in fp32.

    Args:
        rows: As `speed.py` writes them.
    """
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [
        f"| {row['net']} | {row['model']} | {row['threads']} | {row['batch']} | {row['mac_ratio']:.2f} "
        f"| {row['time_ratio']:.2f} | {row['realised']:.2f} | {row['int8_ratio']:.2f} | {row['dense_int8_ratio']:.2f} "
        f"| {row['milliseconds']['dense']:.3g} | {row['milliseconds']['fp32']:.3g} |"
        for row in sorted(rows, key=_order)
    ]
    return "\n".join(lines)


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    family, _, size = row["model"].rpartition(" ")
    return row["net"], row["threads"], row["batch"], family, float(size.strip("Px"))

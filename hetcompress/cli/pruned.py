"""What `prune` and `finetune` say of the shapes that they ended with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetcompress.pipeline import Pruned

__all__ = ["say_which_decided"]

ROOM = 1.02
"""How far a target may be left behind before a word is due."""


def say_which_decided(density: float | None, mac_ratio: float | None, result: Pruned) -> None:
    """Of two targets, say which one decided where that goes well beyond the other.

    Args:
        density: As asked for, if it was.
        mac_ratio: Likewise.
        result: What came out.
    """
    from hetcompress.cli import console

    if density is None or mac_ratio is None:
        return
    if result.mac_ratio > ROOM * mac_ratio:
        console.warn(
            f"density {density:g} decides: the MAC ratio is {result.mac_ratio:.3g}, beyond the {mac_ratio:g} asked for"
        )
    elif ROOM * result.density < density:
        console.warn(
            f"MAC ratio {mac_ratio:g} decides: the density is {result.density:.3g}, below the {density:g} allowed"
        )

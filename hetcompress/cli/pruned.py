"""What `prune` and `finetune` say of the shapes that they ended with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetcompress.pipeline import Pruned

__all__ = ["say_what_stays", "say_which_decided"]

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


def say_what_stays(density: float | None, mac_ratio: float | None, result: Pruned) -> None:
    """Of one target, say that most of what the other one counts stays, where it is so.

    Weights that cost as many MACs as the others would give a MAC ratio of 1 / density.

    Args:
        density: As asked for, if it was.
        mac_ratio: Likewise; without either one, the default was.
        result: What came out.
    """
    from hetcompress.cli import console

    if result.time is not None:
        return
    if mac_ratio is None and density is not None and result.mac_ratio < density**-0.5:
        console.say("most of what was pruned costs few MACs; --mac-ratio aims at these")
    if density is None and result.density > result.mac_ratio**-0.5:
        console.say(
            f"{result.density:.0%} of the weights stay, in layers of few MACs; at small batches they take time, which "
            "--density beside --mac-ratio, or --latency-ratio, aims at"
        )

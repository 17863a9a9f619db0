"""Granularities: how finely the shapes of a layer are chosen, as named presets of family and channel groups.

From the finest, which keeps most accuracy, to the coarsest, which stock operators execute best.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hetcompress.nn import GroupSize
from hetcompress.registry import Registry
from hetcompress.shapes import CentreShapes, FreeShapes, SetShapes, ShapeFamily, WholeShapes, build_family

__all__ = ["FINEST_FIRST", "GRANULARITIES", "VECTORS", "Grain", "usual_groups"]

VECTOR = 16
"""Filters: one AVX-512 register; two of AVX2, four of NEON."""
VECTORS = {"vector": VECTOR, "vector8": 8}
"""Filters of the granularities of free shapes: in narrow layers 16 leave one or two shapes for each channel."""
NARROW, SHORT_BLOCK = 64, 4
"""Layers that read fewer channels go by so many, which onnxruntime still reads fast (docs/decisions, 14)."""
MOST_SETS = 4
"""More sets of filters cost more time than their MACs save, in stock runtimes."""

FINEST_FIRST = ("vector8", "vector", "sets", "channels", "whole")


@dataclasses.dataclass(frozen=True)
class Grain:
    """How the shapes of one layer are chosen.

    Attributes:
        family: The shapes to choose from.
        group_out: Filters that share a shape.
        group_in: Input channels that share a shape.
    """

    family: ShapeFamily
    group_out: GroupSize
    group_in: GroupSize

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        arguments = self.family.arguments()
        sizes = {"group_out": self.group_out, "group_in": self.group_in}
        return {"family": self.family.name, "family_arguments": arguments, **sizes}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Grain:
        """Build what `to_json` returned."""
        family = build_family(values["family"], values["family_arguments"])
        return cls(family, values["group_out"], values["group_in"])


def usual_groups(family: str) -> tuple[GroupSize, GroupSize]:
    """Return how many filters and input channels share a shape of a family where the user names no numbers.

    ``free`` shapes go with one input channel and 16 filters, an AVX-512 register: the grain that keeps the accuracy;
    libraries with one input channel and all filters, which stock operators execute; HetConv's comb with single kernels.
    """
    filters: dict[str, GroupSize] = {"free": VECTOR, "hetconv": 1}
    return filters.get(family, "all"), 1


GRANULARITIES: Registry[Callable[[nn.Conv2d], Grain]] = Registry("granularity")


@GRANULARITIES.register("vector")
def _vector(_conv: nn.Conv2d) -> Grain:
    """Any taps for each input channel and 16 filters: what our own kernel executes."""
    return Grain(FreeShapes(), VECTORS["vector"], 1)


@GRANULARITIES.register("vector8")
def _vector8(_conv: nn.Conv2d) -> Grain:
    """Any taps for each input channel and 8 filters: finer, for narrow nets and our own kernel."""
    return Grain(FreeShapes(), VECTORS["vector8"], 1)


@GRANULARITIES.register("sets")
def _sets(conv: nn.Conv2d) -> Grain:
    """A set of whole kernels for each of up to four groups of filters of at least a block; 1x1 or empty elsewhere."""
    filters = conv.out_channels // conv.groups
    return Grain(SetShapes(), filters // math.gcd(MOST_SETS, max(1, filters // VECTOR), filters), 1)


@GRANULARITIES.register("channels")
def _channels(conv: nn.Conv2d) -> Grain:
    """Whole kernel, centre or nothing for each input channel, shared by all filters."""
    return Grain(CentreShapes(_block(conv)), "all", 1)


@GRANULARITIES.register("whole")
def _whole(conv: nn.Conv2d) -> Grain:
    """Whole kernel or nothing for each input channel, shared by all filters: channel pruning."""
    return Grain(WholeShapes(_block(conv)), "all", 1)


def _block(conv: nn.Conv2d) -> int:
    """Return how many channels decide together."""
    return SHORT_BLOCK if conv.in_channels // conv.groups < NARROW else VECTOR

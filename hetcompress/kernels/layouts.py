"""Which values of a graph keep our operators' own layout, (N, C / V, H + 2b, W + 2b, V): the choice, for any graph.

A reorder at each end of our operators costs as much as a small layer.  Values that only our operators, and others that
work in either layout, touch can be spared both.  Where an operator that knows planar images alone touches a blocked
value, it is reordered once, so a set of values that must share a layout is blocked if that saves more than it costs.
A border of b zeros, as many as the convolutions that read a value pad, spares these a padded copy of it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable

from hetcompress.kernels.library import Geometry

__all__ = ["Block", "Layouts", "Step", "choose_layouts", "convolution_step", "sides"]

WIDEST_BORDER = 3
"""A wider one costs every operator more than the copy that it spares one."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A node of a graph, as far as layouts go.

    Attributes:
        reads: The values that it reads.
        writes: The values that it writes.
        alike: Of these, those that must share a layout, whichever it is.
        ends: Of these, those that the node takes in either layout, and sooner blocked.
        vector: V of our convolution; None of others, which take any.
        border: With how many zeros it would read the first value where it is; 0 if it copies that in any case.
        keeps_zeros: Whether it makes zeros of zeros, so that the values that are alike can have a border.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    alike: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    vector: int | None = None
    border: int = 0
    keeps_zeros: bool = True

    @property
    def either(self) -> set[str]:
        """The values that the node takes in either layout; of the others it knows the planar one alone."""
        return {*self.alike, *self.ends}


def convolution_step(reads: tuple[str, ...], output: str, geometry: Geometry, vector: int) -> Step:
    """Return our convolution as a step.

    Args:
        reads: The images, and the residual if there is one.
        output: What it writes.
        geometry: Of which filters, groups, strides and padding count.
        vector: V.
    """
    border = max(geometry.padding) if max(geometry.stride) == 1 else 0
    images, residual = reads[:1], reads[1:]
    if geometry.groups == 1 or geometry.out_channels // geometry.groups % max(vector, 1) == 0:
        return Step(reads, (output,), (output, *residual), (output, *images), vector, border)
    # a block of filters would belong to two groups: output and residual are planar
    return Step(reads, (output,), (), () if images == residual else images, vector, border)


@dataclasses.dataclass(frozen=True)
class Block:
    """How a value is blocked.

    Attributes:
        vector: V.
        border: b.
    """

    vector: int
    border: int


@dataclasses.dataclass(frozen=True)
class Layouts:
    """The choice.

    Attributes:
        blocked: The values to keep blocked, and how.
        written: Of these, those that are written planar, and reordered behind that.
        read: Of these, those that are also read planar, and reordered before that.
    """

    blocked: dict[str, Block]
    written: set[str]
    read: set[str]

    def copy_for(self, step: Step, value: str) -> str | None:
        """Return "blocked" or "planar" if a node must read that copy of a value; None if it reads the value itself."""
        if value not in self.blocked:
            return None
        if value in step.either:
            return "blocked" if value in self.written else None
        return None if value in self.written else "planar"

    def of(self, step: Step, value: str) -> Block | None:
        """Return how a node finds a value, or leaves it: None for planar."""
        return self.blocked.get(value) if value in step.either else None


def sides(before: Block | None, after: Block | None) -> dict[str, int]:
    """Return the layouts of what an operator of ours reads and writes as its settings, None being planar."""
    return {
        "layout_in": int(before is not None), "layout_out": int(after is not None),
        "border_in": before.border if before else 0, "border_out": after.border if after else 0,
    }  # fmt: skip


@dataclasses.dataclass
class _Class:
    """Values that must share a layout: how often blocked is faster, what it costs, and with what border."""

    values: set[str] = dataclasses.field(default_factory=set)
    ends: int = 0
    vectors: set[int] = dataclasses.field(default_factory=set)
    written: set[str] = dataclasses.field(default_factory=set)
    read: set[str] = dataclasses.field(default_factory=set)
    border: int = 0
    keeps_zeros: bool = True


def choose_layouts(steps: Iterable[Step], fits: Callable[[str, int], bool]) -> Layouts:
    """Choose the values to keep blocked.

    Args:
        steps: The nodes.
        fits: Whether a value can be blocked at all, for some V.
    """
    chosen = Layouts({}, set(), set())
    for found in _classes(tuple(steps)):
        if len(found.vectors) != 1 or found.ends <= len(found.written | found.read):
            continue
        (vector,) = found.vectors
        if all(fits(value, vector) for value in found.values):
            block = Block(vector, found.border if found.keeps_zeros else 0)
            chosen.blocked.update(dict.fromkeys(found.values, block))
            chosen.written.update(found.written)
            chosen.read.update(found.read)
    return chosen


def _classes(steps: tuple[Step, ...]) -> list[_Class]:
    parent: dict[str, str] = {}

    def find(value: str) -> str:
        while parent.setdefault(value, value) != value:
            value = parent[value]
        return value

    for step in steps:
        for value in step.alike[1:]:
            parent[find(value)] = find(step.alike[0])
    classes: dict[str, _Class] = defaultdict(_Class)
    for step in steps:
        for value in (*step.reads, *step.writes):
            _count(classes[find(value)], step, value)
    return list(classes.values())


def _count(found: _Class, step: Step, value: str) -> None:
    """Note what a node does to a value that it reads or writes."""
    found.values.add(value)
    if value not in step.either:
        (found.written if value in step.writes else found.read).add(value)
    elif value in step.ends:
        found.ends += 1
        found.vectors |= set() if step.vector is None else {step.vector}
    if value in step.reads[:1] and step.border <= WIDEST_BORDER:
        found.border = max(found.border, step.border)
    found.keeps_zeros &= step.keeps_zeros or value not in step.alike

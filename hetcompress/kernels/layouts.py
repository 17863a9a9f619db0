"""Which values of a graph keep our operators' own layout (N, C / V, H, W, V): the choice, whatever holds the graph.

A reorder at each end of our operators costs as much as a small layer.  Values that only our operators, and others that
work in either layout, touch can be spared both.  Where an operator that knows planar images alone touches a blocked
value, it is reordered once, so a set of values that must share a layout is blocked if that saves more than it costs.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable

from hetcompress.kernels.library import Geometry

__all__ = ["Layouts", "Step", "choose_layouts", "convolution_step", "parted"]


@dataclasses.dataclass(frozen=True)
class Step:
    """A node of a graph, as far as layouts go.

    Attributes:
        reads: The values that it reads.
        writes: The values that it writes.
        alike: Of these, those that must share a layout, whichever it is.
        ends: Of these, those that the node takes in either layout, and sooner blocked.
        vector: V of our convolution; None of others, which take any.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    alike: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    vector: int | None = None

    @property
    def either(self) -> set[str]:
        """The values that the node takes in either layout; of the others it knows the planar one alone."""
        return {*self.alike, *self.ends}


def convolution_step(reads: tuple[str, ...], output: str, geometry: Geometry, vector: int) -> Step:
    """Return our convolution as a step.

    Args:
        reads: The images, and the residual if there is one.
        output: What it writes.
        geometry: Of which filters and groups count.
        vector: V.
    """
    images, residual = reads[:1], reads[1:]
    if geometry.groups == 1 or geometry.out_channels // geometry.groups % max(vector, 1) == 0:
        return Step(reads, (output,), (output, *residual), (output, *images), vector)
    # a block of filters would belong to two groups: output and residual are planar
    return Step(reads, (output,), (), () if images == residual else images, vector)


def parted(steps: Iterable[Step]) -> list[Step]:
    """Return the steps, pools between blocks of two lengths writing planar images, the smaller of their two sides.

    A pool takes images in either layout, but blocks of one length: where layers of V = 16 and of V = 8 lie on its two
    sides, one of these has to be planar.
    """
    steps = tuple(steps)
    lengths = {value: found.vectors for found in _classes(steps) for value in found.values}
    made = []
    for step in steps:
        pools = step.vector is None and bool(step.ends)
        if pools and len(set().union(*(lengths[value] for value in step.ends))) > 1:
            step = dataclasses.replace(step, ends=tuple(value for value in step.ends if value in step.reads))
        made.append(step)
    return made


@dataclasses.dataclass(frozen=True)
class Layouts:
    """The choice.

    Attributes:
        blocked: The values to keep blocked, each with its V.
        written: Of these, those that are written planar, and reordered behind that.
        read: Of these, those that are also read planar, and reordered before that.
    """

    blocked: dict[str, int]
    written: set[str]
    read: set[str]

    def copy_for(self, step: Step, value: str) -> str | None:
        """Return "blocked" or "planar" if a node must read that copy of a value; None if it reads the value itself."""
        if value not in self.blocked:
            return None
        if value in step.either:
            return "blocked" if value in self.written else None
        return None if value in self.written else "planar"

    def of(self, step: Step, value: str) -> int:
        """Return V if a node finds or leaves a value blocked; 0 for planar."""
        return self.blocked.get(value, 0) if value in step.either else 0


@dataclasses.dataclass
class _Class:
    """Values that must share a layout: how often blocked is faster, and what it costs."""

    values: set[str] = dataclasses.field(default_factory=set)
    ends: int = 0
    vectors: set[int] = dataclasses.field(default_factory=set)
    written: set[str] = dataclasses.field(default_factory=set)
    read: set[str] = dataclasses.field(default_factory=set)


def choose_layouts(steps: Iterable[Step], fits: Callable[[str, int], bool]) -> Layouts:
    """Choose the values to keep blocked.

    Args:
        steps: The nodes, `parted`.
        fits: Whether a value can be blocked at all, for some V.
    """
    chosen = Layouts({}, set(), set())
    for found in _classes(tuple(steps)):
        if len(found.vectors) != 1 or found.ends <= len(found.written | found.read):
            continue
        (vector,) = found.vectors
        if all(fits(value, vector) for value in found.values):
            chosen.blocked.update(dict.fromkeys(found.values, vector))
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

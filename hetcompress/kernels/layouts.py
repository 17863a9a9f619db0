"""Layouts of the values of an ONNX graph with our operators: which are blocked, and with what border.

Values that only our operators and element-wise ones touch are blocked, (N, ceil(C / V), H + 2b, W + 2b, V), which
spares our operators a reorder at both ends.  With a border of as many zeros as the convolutions behind it pad, these
read the images where they are.  Where other operators touch such a value, its layout is changed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx

from hetcompress.kernels.onnx_export import DOMAIN, OPERATOR
from hetcompress.kernels.onnx_pools import Shape, pool_node, pooling_of
from hetcompress.kernels.pooling import Pooling

__all__ = ["IMAGES", "RESIDUAL", "choose_layouts", "limits_of", "ours"]

KEEP_ZEROS = {"Relu", "LeakyRelu", "HardSwish", "Tanh", "Elu", "Identity"}
UNARY = {*KEEP_ZEROS, "Clip", "Sigmoid", "HardSigmoid"}
BINARY = {"Add", "Sub", "Mul"}
IMAGES, VALUES, RESIDUAL = 0, 1, 5
"""Places among the operator's inputs."""
WIDEST_BORDER = 3
"""A wider one costs every operator more than the copy that it spares one."""


def choose_layouts(graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
    """Set the layouts of our operators, put pools of ours in the place of others, and change layouts where need be.

    Args:
        graph: Changed in place.
        shapes: Of its values, planar, as far as they are known.
    """
    _Layouts(graph, shapes).choose()


def ours(node: onnx.NodeProto) -> bool:
    """Tell whether a node is our convolution."""
    return bool(node.domain == DOMAIN and node.op_type == OPERATOR)


@dataclasses.dataclass
class _Class:
    """Values that must share a layout.

    Attributes:
        names: The values.
        ends: Where our operators write or read images.
        vectors: Vector lengths of these operators.
        foreign_written: Values that other operators write.
        foreign_read: Values that other operators read.
        planar: Whether one of them cannot be blocked.
        border: What the convolutions that read them pad them with, at most.
        keeps_zeros: Whether all operators among them make zeros of zeros, so that there can be a border.
    """

    names: set[str] = dataclasses.field(default_factory=set)
    ends: int = 0
    vectors: set[int] = dataclasses.field(default_factory=set)
    foreign_written: set[str] = dataclasses.field(default_factory=set)
    foreign_read: set[str] = dataclasses.field(default_factory=set)
    planar: bool = False
    border: int = 0
    keeps_zeros: bool = True

    def worth(self, shapes: dict[str, Shape]) -> bool:
        """Tell whether being blocked spares more than the changes of layouts cost."""
        if self.planar or len(self.vectors) != 1 or self.ends <= len(self.foreign_written | self.foreign_read):
            return False
        known = [shapes.get(name) for name in self.names]
        return all(shape is not None and len(shape) == 4 and shape[1] for shape in known)


@dataclasses.dataclass(frozen=True)
class _Blocked:
    """How a value is blocked."""

    vector: int
    border: int


class _Layouts:
    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self.parent: dict[str, str] = {}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            names = self.inside(node)
            if names:
                self.join(*names)
        self.pools = self._pools()

    def find(self, name: str) -> str:
        while self.parent.setdefault(name, name) != name:
            name = self.parent[name]
        return name

    def join(self, *names: str) -> None:
        for name in names[1:]:
            self.parent[self.find(name)] = self.find(names[0])

    def inside(self, node: onnx.NodeProto) -> list[str]:
        """Return the values of a node that share its layout; none for an operator that knows planar images alone."""
        if ours(node):
            return [node.output[0], *(name for name in node.input[RESIDUAL:] if name)]
        if node.op_type in UNARY:
            return [node.output[0], node.input[0]]
        if node.op_type in BINARY and len({self.shapes.get(name) for name in node.input}) == 1:
            return [node.output[0], *node.input]
        return []

    def _pools(self) -> dict[str, Pooling]:
        """Return the pools of what our operators wrote, by output: behind another, a change costs less after it."""
        written: set[str] = set()
        pools: dict[str, Pooling] = {}
        for node in self.graph.node:
            pooling = pooling_of(node, self.shapes.get(node.input[0]), self.constants) if node.input else None
            if ours(node):
                written.add(self.find(node.output[0]))
            elif pooling and self.find(node.input[0]) in written:
                written.add(self.find(node.output[0]))
                pools[node.output[0]] = pooling
        return pools

    def choose(self) -> None:
        blocked: dict[str, _Blocked] = {}
        foreign_written, foreign_read = set(), set()
        for found in self._classes().values():
            if found.worth(self.shapes):
                how = _Blocked(next(iter(found.vectors)), found.border * found.keeps_zeros)
                blocked |= dict.fromkeys(found.names, how)
                foreign_written |= found.foreign_written
                foreign_read |= found.foreign_read
        self._apply(blocked, foreign_written, foreign_read)

    def _classes(self) -> dict[str, _Class]:
        classes: dict[str, _Class] = {}

        def of(name: str) -> _Class:
            found = classes.setdefault(self.find(name), _Class())
            found.names.add(name)
            return found

        for node in self.graph.node:
            known = {*self.inside(node)}
            if ours(node):
                known.add(node.input[IMAGES])
                self._note_convolution(node, of(node.input[IMAGES]), of(node.output[0]))
            elif node.output[0] in self.pools:
                known |= {node.input[0], node.output[0]}
                source, target = of(node.input[0]), of(node.output[0])
                source.ends, target.ends = source.ends + 1, target.ends + 1
                target.vectors |= source.vectors
            elif known:
                of(node.output[0]).keeps_zeros &= self._keeps_zeros(node)
            for name in {*node.input} - known - {""}:
                of(name).foreign_read.add(name)
            for name in {*node.output} - known:
                of(name).foreign_written.add(name)
        for value in (*self.graph.input, *self.graph.output, *self.graph.initializer):
            of(value.name).planar = True
        return classes

    def _note_convolution(self, node: onnx.NodeProto, source: _Class, target: _Class) -> None:
        given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        values = self.constants.get(node.input[VALUES])
        vector = values.dims[1] if values is not None else 0
        for side in (source, target):
            side.ends += 1
            side.vectors.add(vector)
            side.planar |= vector == 0
        if vector and given["group"] > 1 and given["out_channels"] // given["group"] % vector:
            target.planar = True  # a block would belong to two groups
        padding = max(given["pads"])
        if max(given["strides"]) == 1 and padding <= WIDEST_BORDER:
            source.border = max(source.border, padding)

    def _keeps_zeros(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Clip":
            limits = limits_of(node, self.constants)
            return limits is not None and limits[0] <= 0 <= limits[1]
        return node.op_type in KEEP_ZEROS | BINARY

    def _apply(self, blocked: dict[str, _Blocked], written: set[str], read: set[str]) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            made = self._in_layout(node, blocked)
            knows = {*self.inside(node)} | ({made[0].input[IMAGES]} if made[0].domain == DOMAIN else set())
            for place, name in enumerate(made[0].input):
                # a blocked value bears the name, and a planar twin another; if another operator wrote it, vice versa
                if name in blocked and (name in knows) == (name in written):
                    made[0].input[place] = f"{name}_blocked" if name in written else f"{name}_planar"
            nodes.extend(made)
            for name in node.output:
                if name in blocked and name in written:
                    nodes.append(self._change(name, f"{name}_blocked", None, blocked[name]))
                elif name in blocked and name in read:
                    nodes.append(self._change(name, f"{name}_planar", blocked[name], None))
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _in_layout(self, node: onnx.NodeProto, blocked: dict[str, _Blocked]) -> list[onnx.NodeProto]:
        """Return what a node becomes: itself in other layouts, or a pool of ours in its place."""
        source, target = (blocked.get(names[0]) if names else None for names in (node.input, node.output))
        if ours(node):
            sides = _sides(source, target)
            for attribute in node.attribute:
                if attribute.name in sides:
                    attribute.i = sides[attribute.name]
        elif node.output[0] in self.pools and (source or target):
            return self._pool(node, _sides(source, target))
        return [node]

    def _pool(self, node: onnx.NodeProto, sides: dict[str, int]) -> list[onnx.NodeProto]:
        name, pooling = node.output[0], dataclasses.replace(self.pools[node.output[0]], **sides)
        if len(self.shapes.get(name) or ()) != 2:
            return [pool_node(node.input[0], name, pooling)]
        # a mean over height and width that leaves these out
        flat = onnx.helper.make_node("Flatten", [f"{name}_pixel"], [name], axis=1)
        return [pool_node(node.input[0], f"{name}_pixel", pooling), flat]

    def _change(self, source: str, target: str, before: _Blocked | None, after: _Blocked | None) -> onnx.NodeProto:
        """Return the change of a value's layout."""
        channels = self.shapes[source][1] or 1
        return pool_node(source, target, Pooling(channels, **_sides(before, after)))


def _sides(source: _Blocked | None, target: _Blocked | None) -> dict[str, int]:
    """Return the layouts of an operator between two values, planar ones being None, as attributes and as settings."""
    known = source or target
    return {
        "vector": known.vector if known else 0, "layout_in": int(source is not None),
        "layout_out": int(target is not None), "border_in": source.border if source else 0,
        "border_out": target.border if target else 0,
    }  # fmt: skip


def limits_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float] | None:
    """Return what a ReLU or a clip limits values to; None for other nodes, and limits that are not constant."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [*node.input[1:], "", ""][:2]
    if node.op_type != "Clip" or any(name and name not in constants for name in ends):
        return None
    low, high = (
        float(onnx.numpy_helper.to_array(constants[name])) if name else default
        for name, default in zip(ends, (-np.inf, np.inf), strict=True)
    )
    return low, high

"""Passes over ONNX graphs with our operator: it computes what follows it, and neighbours exchange blocked tensors.

Runtimes fuse what they know; of a foreign operator they know nothing.  So

    relu(conv(x) + y)   becomes one call with a residual and a limit, and

values that only our operators, element-wise ones and pools behind ours touch keep the operator's own layout
(N, C / V, H, W, V), which spares it a reorder at both ends.  Where other operators touch such a value, it is reordered
once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx

from hetcompress.kernels.layouts import Layouts, Step, choose_layouts
from hetcompress.kernels.onnx_export import DOMAIN, OPERATOR

__all__ = ["fuse"]

UNARY = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Identity"}
BINARY = {"Add", "Sub", "Mul"}
POOLS = {"MaxPool", "AveragePool"}
"""In blocked images they are pools over height, width and, of size 1, the channels of a block: as fast (measured)."""
IMAGES, VALUES, BIAS, RESIDUAL = 0, 1, 4, 5
"""Places among the operator's inputs."""

Shape = tuple[int | None, ...]


def fuse(model: onnx.ModelProto) -> None:
    """Fuse and choose layouts, in place; shapes that inference cannot find must be in the graph's value_info."""
    graph = model.graph
    if not any(_ours(node) for node in graph.node):
        return
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    shapes = {value.name: _dims(value) for value in values}
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    _Epilogues(graph, shapes).fuse()
    _Layouts(graph, shapes).choose()


def _ours(node: onnx.NodeProto) -> bool:
    return bool(node.domain == DOMAIN and node.op_type == OPERATOR)


def _dims(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def _pool_blocks(node: onnx.NodeProto) -> None:
    """Let a pool over height and width run over blocked images."""
    for attribute in node.attribute:
        if attribute.name in ("kernel_shape", "strides", "dilations"):
            attribute.ints.append(1)
        elif attribute.name == "pads":  # all beginnings, then all ends
            top, left, bottom, right = attribute.ints
            attribute.ints[:] = [top, left, 0, bottom, right, 0]


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == name)


class _Epilogues:
    """Takes additions and limits that follow our operator into it."""

    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def fuse(self) -> None:
        changed = True
        while changed:
            nodes = list(self.graph.node)
            readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
            for node in nodes:
                for name in node.input:
                    readers[name].append(node)
            outputs = {value.name for value in self.graph.output}
            ours = (node for node in nodes if _ours(node) and node.output[0] not in outputs)
            changed = any(self._follow(node, readers[node.output[0]], nodes) for node in ours)
            del self.graph.node[:]
            self.graph.node.extend(nodes)

    def _follow(self, node: onnx.NodeProto, readers: list[onnx.NodeProto], nodes: list[onnx.NodeProto]) -> bool:
        """Take the only reader of a node into it, if that can be; tell whether it was."""
        if len(readers) != 1 or not (self._add(node, readers[0]) or self._limit(node, readers[0])):
            return False
        # the reader's place is late enough for everything that both read
        node.output[0] = readers[0].output[0]
        nodes.remove(node)
        nodes[nodes.index(readers[0])] = node
        return True

    def _add(self, node: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
        limited = _attribute(node, "low").f > -np.inf or _attribute(node, "high").f < np.inf
        if reader.op_type != "Add" or limited or (len(node.input) > RESIDUAL and node.input[RESIDUAL]):
            return False
        others = [name for name in reader.input if name != node.output[0]]
        if len(others) != 1:  # x + x
            return False
        shape = self.shapes.get(node.output[0])
        if shape is None or self.shapes.get(others[0]) != shape or None in shape[1:] or len(shape) != 4:
            return False
        inputs = [*node.input, *[""] * (BIAS + 1 - len(node.input)), others[0]]
        del node.input[:]
        node.input.extend(inputs)
        return True

    def _limit(self, node: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
        if reader.op_type == "Relu":
            low, high = 0.0, np.inf
        elif reader.op_type == "Clip":
            ends = [*reader.input[1:], "", ""][:2]
            if any(name and name not in self.constants for name in ends):
                return False
            low, high = (
                float(onnx.numpy_helper.to_array(self.constants[name])) if name else default
                for name, default in zip(ends, (-np.inf, np.inf), strict=True)
            )
        else:
            return False
        before = _attribute(node, "low"), _attribute(node, "high")
        if before[0].f > -np.inf or before[1].f < np.inf:
            return False
        before[0].f, before[1].f = low, high
        return True


class _Layouts:
    """Lets neighbours exchange blocked tensors."""

    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self.vector = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 2}
        self.written_by_ours = {node.output[0] for node in graph.node if _ours(node)}
        self.fixed = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}

    def choose(self) -> None:
        """Set layouts and put reorders where other operators touch blocked values."""
        steps = [self._step(node) for node in self.graph.node]
        layouts = choose_layouts(steps, self._fits)
        nodes: list[onnx.NodeProto] = []
        for node, step in zip(self.graph.node, steps, strict=True):
            self._set(node, layouts)
            for place, name in enumerate(node.input):
                copy = layouts.copy_for(step, name)
                if copy is not None:
                    node.input[place] = f"{name}_{copy}"
            nodes.append(node)
            for name in node.output:
                if name in layouts.written:
                    nodes.extend(self._to_blocked(name, layouts.blocked[name]))
                elif name in layouts.read:
                    nodes.extend(self._to_planar(name))
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _step(self, node: onnx.NodeProto) -> Step:
        reads, writes = tuple(name for name in node.input if name), tuple(node.output)
        if _ours(node):
            residual = [name for name in node.input[RESIDUAL:] if name]
            ends, vector = (node.output[0], node.input[IMAGES]), self.vector.get(node.input[VALUES], 0)
            return Step(reads[:1] + tuple(residual), writes, (node.output[0], *residual), ends, vector)
        if node.op_type in UNARY or self._pools(node):
            return Step(reads, writes, (node.output[0], node.input[0]))
        if node.op_type in BINARY and len({self.shapes.get(name) for name in node.input}) == 1:
            return Step(reads, writes, (node.output[0], *node.input))
        return Step(reads, writes)

    def _pools(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node pools what our operator wrote: behind another, a reorder costs less after it."""
        return node.op_type in POOLS and len(node.output) == 1 and node.input[0] in self.written_by_ours

    def _fits(self, name: str, vector: int) -> bool:
        shape = self.shapes.get(name)
        if name in self.fixed or shape is None or len(shape) != 4 or None in shape[1:]:
            return False
        return (shape[1] or 1) % max(vector, 1) == 0

    def _set(self, node: onnx.NodeProto, layouts: Layouts) -> None:
        if _ours(node):
            _attribute(node, "layout_in").i = int(node.input[IMAGES] in layouts.blocked)
            _attribute(node, "layout_out").i = int(node.output[0] in layouts.blocked)
        elif self._pools(node) and node.output[0] in layouts.blocked:
            _pool_blocks(node)

    def _to_blocked(self, name: str, vector: int) -> list[onnx.NodeProto]:
        channels, height, width = (size or 1 for size in self.shapes[name][1:])
        sizes = self._constant(f"{name}_blocks", [0, channels // vector, vector, height, width])
        return [
            onnx.helper.make_node("Reshape", [name, sizes], [f"{name}_split"]),
            onnx.helper.make_node("Transpose", [f"{name}_split"], [f"{name}_blocked"], perm=[0, 1, 3, 4, 2]),
        ]

    def _to_planar(self, name: str) -> list[onnx.NodeProto]:
        channels, height, width = (size or 1 for size in self.shapes[name][1:])
        sizes = self._constant(f"{name}_sizes", [0, channels, height, width])
        return [
            onnx.helper.make_node("Transpose", [name], [f"{name}_apart"], perm=[0, 1, 4, 2, 3]),
            onnx.helper.make_node("Reshape", [f"{name}_apart", sizes], [f"{name}_planar"]),
        ]

    def _constant(self, name: str, values: list[Any]) -> str:
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

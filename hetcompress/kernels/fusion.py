"""Passes over ONNX graphs with our operator: it computes what follows it, and neighbours exchange blocked tensors.

Runtimes fuse what they know; of a foreign operator they know nothing.  So

    relu(conv(x) + y)   becomes one call with a residual and a limit,

a shortcut of slices and zeros (`hetcompress.kernels.shortcuts`) becomes such a call too, and then values get the
layouts that spare reorders (`hetcompress.kernels.layouts`).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx

from hetcompress.kernels.onnx_layouts import lay_out
from hetcompress.kernels.onnx_nodes import BIAS, RESIDUAL, Shape, limits_of, ours
from hetcompress.kernels.onnx_shortcuts import replace_shortcuts

__all__ = ["fuse"]


def fuse(model: onnx.ModelProto) -> None:
    """Fuse and choose layouts, in place.

    Args:
        model: Shapes that inference cannot find must be in its graph's value_info, which then tells those of blocked
            values alone.
    """
    graph = model.graph
    if not any(ours(node) for node in graph.node):
        graph.ClearField("value_info")
        return
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    shapes = {value.name: _dims(value) for value in values}
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    graph.ClearField("value_info")
    read = _read(graph)
    _Epilogues(graph, shapes).fuse()
    replace_shortcuts(graph, shapes)
    lay_out(graph, shapes)
    unread = read - _read(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name not in unread]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _read(graph: onnx.GraphProto) -> set[str]:
    """Return the names of values that are read, by nodes or from outside."""
    return {value.name for value in graph.output}.union(*(node.input for node in graph.node))


def _dims(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


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
            mine = (node for node in nodes if ours(node) and node.output[0] not in outputs)
            changed = any(self._follow(node, readers[node.output[0]], nodes) for node in mine)
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
        limits = limits_of(reader, self.constants)
        if limits is None:
            return False
        before = _attribute(node, "low"), _attribute(node, "high")
        if before[0].f > -np.inf or before[1].f < np.inf:
            return False
        before[0].f, before[1].f = limits
        return True

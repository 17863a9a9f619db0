"""Padded shortcuts of ONNX graphs, which our convolutions add, as convolutions of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx
from onnx.numpy_helper import from_array, to_array

from hetcompress.kernels.onnx_export import DOMAIN, OPERATOR, attributes
from hetcompress.kernels.onnx_nodes import RESIDUAL, VALUES, Shape, ours
from hetcompress.kernels.shortcuts import Shortcut

__all__ = ["replace_shortcuts"]

AXES = (2, 3)
"""Rows and columns."""
SIDES = 8
"""Of four axes: their begins, then their ends; those of channels stand at 1 and 5."""
SLICE = 4
"""Constants of a slice: starts, ends, axes, steps."""
UNBOUNDED = 2**31 - 1
"""No image has as many rows; exporters write the largest number for an open end."""


def replace_shortcuts(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Put our convolution in the place of padded shortcuts that one of ours adds.

    Args:
        graph: Changed in place.
        shapes: Of its values, planar, as far as they are known.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    for node in [node for node in graph.node if ours(node) and len(node.input) > RESIDUAL]:
        pad, values = makers.get(node.input[RESIDUAL]), constants.get(node.input[VALUES])
        if pad is None or pad.op_type != "Pad" or values is None or reads[pad.output[0]] != 1:
            continue
        gone = [pad]
        while (maker := makers.get(gone[-1].input[0])) and maker.op_type == "Slice" and reads[maker.output[0]] == 1:
            gone.append(maker)
        source = gone[-1].input[0]
        found = _shortcut(gone, shapes.get(source), constants)
        if found is not None:
            _put(graph, gone, source, found, values.dims[1])


def _shortcut(
    nodes: list[onnx.NodeProto], shape: Shape | None, constants: Mapping[str, onnx.TensorProto]
) -> Shortcut | None:
    """Return what a pad does behind slices; None if that is something else.

    Args:
        nodes: The pad, then the slices, the last one first.
        shape: Of what is sliced.
        constants: Of the graph.
    """
    inputs = [name for node in nodes for name in node.input[1:] if name]
    if shape is None or len(shape) != 4 or shape[1] is None or any(name not in constants for name in inputs):
        return None
    given: list[list[Any]] = [
        [to_array(constants[name]).tolist() if name else None for name in node.input[1:]] for node in nodes
    ]
    sides, value, axes = [*given[0], None, None, None][:3]
    modes = {onnx.helper.get_attribute_value(attribute) for attribute in nodes[0].attribute}
    if not sides or len(sides) != SIDES or value or axes is not None or modes - {b"constant"}:
        return None
    before, after = sides[1], sides[5]
    if min(before, after) < 0 or any(side for place, side in enumerate(sides) if place not in (1, 5)):
        return None
    stride = dict.fromkeys(AXES, 1)
    for inputs_of_slice in given[1:]:
        if len(inputs_of_slice) != SLICE or None in inputs_of_slice:
            return None
        for start, end, axis, step in zip(*inputs_of_slice, strict=True):
            if axis not in stride or start or end < (shape[axis] or UNBOUNDED) or step < 1:
                return None
            stride[axis] *= step
    return Shortcut(shape[1], before, after, (stride[2], stride[3]))


def _put(graph: onnx.GraphProto, gone: list[onnx.NodeProto], source: str, found: Shortcut, vector: int) -> None:
    """Replace nodes by our convolution, at the place of the last of them."""
    layer, name = found.layer(vector), gone[0].output[0]
    given = {"values": layer.values.detach(), "taps": layer.taps, "starts": layer.starts}
    names = [f"{name}.{part}" for part in given]
    graph.initializer.extend(from_array(t.numpy(), n) for n, t in zip(names, given.values(), strict=True))
    node = onnx.helper.make_node(
        OPERATOR, [source, *names], [name], f"{name}.shortcut", domain=DOMAIN, **attributes(layer.geometry)
    )
    left = {other.output[0] for other in gone[1:]}
    nodes = [node if other.output[0] == name else other for other in graph.node if other.output[0] not in left]
    del graph.node[:]
    graph.node.extend(nodes)

"""Padded shortcuts of ONNX graphs, which our convolutions add, as convolutions of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx
from onnx.numpy_helper import from_array, to_array

from hetcompress.kernels.module import VectorBlockConv2d
from hetcompress.kernels.onnx_export import DOMAIN, OPERATOR, attributes
from hetcompress.kernels.onnx_nodes import RESIDUAL, VALUES, Shape, ours
from hetcompress.kernels.shortcuts import Shortcut

__all__ = ["replace_shortcuts"]

ROWS_AND_COLUMNS = (2, 3)
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

    def vector_of(node: onnx.NodeProto | None) -> int | None:
        values = constants.get(node.input[VALUES]) if node is not None and ours(node) else None
        return None if values is None else int(values.dims[1])

    for node in [node for node in graph.node if ours(node) and len(node.input) > RESIDUAL]:
        pad, vector = makers.get(node.input[RESIDUAL]), vector_of(node)
        if pad is None or pad.op_type != "Pad" or vector is None or reads[pad.output[0]] != 1:
            continue
        chain = [pad]  # backwards
        while (maker := makers.get(chain[-1].input[0])) and maker.op_type == "Slice" and reads[maker.output[0]] == 1:
            chain.append(maker)
        source = chain[-1].input[0]
        found = _shortcut(chain, shapes.get(source), constants)
        # one more vector length would make all that shares the source's layout planar
        beside = [makers.get(source), *(other for other in graph.node if source in other.input)]
        if found is not None and {vector_of(other) for other in beside} <= {None, vector}:
            _put(graph, chain, source, found.layer(vector))


def _shortcut(
    chain: list[onnx.NodeProto], shape: Shape | None, constants: Mapping[str, onnx.TensorProto]
) -> Shortcut | None:
    """Return what a pad does behind slices; None if that is something else.

    Args:
        chain: The pad, then the slices, the last one first.
        shape: Of what is sliced.
        constants: Of the graph.
    """
    names = [name for node in chain for name in node.input[1:] if name]
    if shape is None or len(shape) != 4 or shape[1] is None or any(name not in constants for name in names):
        return None
    inputs: list[list[Any]] = [
        [to_array(constants[name]).tolist() if name else None for name in node.input[1:]] for node in chain
    ]
    channels, stride = _padded(chain[0], inputs[0]), dict.fromkeys(ROWS_AND_COLUMNS, 1)
    for slice_inputs in inputs[1:]:
        if len(slice_inputs) != len(("starts", "ends", "axes", "steps")) or None in slice_inputs:
            return None
        for start, end, axis, step in zip(*slice_inputs, strict=True):
            if axis not in stride or start or end < (shape[axis] or UNBOUNDED) or step < 1:
                return None
            stride[axis] *= step
    return None if channels is None else Shortcut(shape[1], *channels, (stride[2], stride[3]))


def _padded(pad: onnx.NodeProto, inputs: list[Any]) -> tuple[int, int] | None:
    """Return how many channels of zeros a pad puts before and after; None if it pads otherwise, or something else."""
    sides, value, axes = [*inputs, None, None, None][:3]
    modes = {onnx.helper.get_attribute_value(attribute) for attribute in pad.attribute}
    if not sides or value or axes is not None or modes - {b"constant"}:
        return None
    begins, ends = (tuple(sides[: len(sides) // 2]), tuple(sides[len(sides) // 2 :]))
    before, after = begins[1], ends[1]
    if min(before, after) < 0 or begins != (0, before, 0, 0) or ends != (0, after, 0, 0):
        return None
    return before, after


def _put(graph: onnx.GraphProto, chain: list[onnx.NodeProto], source: str, layer: VectorBlockConv2d) -> None:
    """Replace nodes by our convolution, at the place of the first of the chain, which is the last of the graph."""
    name = chain[0].output[0]
    parts = {"values": layer.values.detach(), "taps": layer.taps, "starts": layer.starts}
    names = [f"{name}.{part}" for part in parts]
    graph.initializer.extend(from_array(t.numpy(), n) for n, t in zip(names, parts.values(), strict=True))
    node = onnx.helper.make_node(
        OPERATOR, [source, *names], [name], f"{name}.shortcut", domain=DOMAIN, **attributes(layer.geometry)
    )
    gone = {other.output[0] for other in chain[1:]}
    nodes = [node if other.output[0] == name else other for other in graph.node if other.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(nodes)

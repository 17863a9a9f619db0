"""Pools of ONNX graphs as our own operator, which reads and writes either layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import onnx

from hetcompress.kernels.onnx_export import DOMAIN
from hetcompress.kernels.onnx_nodes import Shape
from hetcompress.kernels.pooling import LARGEST_KERNEL, POOL_OPERATOR, Pooling, pool_attributes

__all__ = ["pool_node", "pooling_of"]

REDUCTIONS = {"ReduceMax", "ReduceMean"}
WHOLE = REDUCTIONS | {"GlobalMaxPool", "GlobalAveragePool"}
"""Pools over all pixels of an image."""


def pooling_of(node: onnx.NodeProto, shape: Shape | None, constants: Mapping[str, onnx.TensorProto]) -> Pooling | None:
    """Return what a node pools, both sides planar; None if it does something else.

    Args:
        node: Any node.
        shape: Of its input; the batch may be None.
        constants: Of the graph.
    """
    if node.op_type not in {*WHOLE, "MaxPool", "AveragePool"} or len(node.output) != 1:
        return None
    if shape is None or len(shape) != 4 or not shape[1]:
        return None
    bare = Pooling(shape[1], average=node.op_type in ("AveragePool", "GlobalAveragePool", "ReduceMean"))
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in WHOLE:
        height, width = shape[2:]
        if not height or not width or max(height, width) > LARGEST_KERNEL or not _whole(node, given, constants):
            return None
        return dataclasses.replace(bare, kernel_size=(height, width))
    kernel, pads = tuple(given["kernel_shape"]), tuple(given.get("pads", (0, 0, 0, 0)))
    plain = given.get("auto_pad", b"NOTSET") == b"NOTSET" and set(given.get("dilations", ())) <= {1}
    if not plain or any(pad >= kernel[i % 2] for i, pad in enumerate(pads)) or max(kernel) > LARGEST_KERNEL:
        return None
    return dataclasses.replace(
        bare, kernel_size=kernel, stride=tuple(given.get("strides", (1, 1))), padding=pads,
        count_padding=bool(given.get("count_include_pad", 0)), round_up=bool(given.get("ceil_mode", 0)),
    )  # fmt: skip


def _whole(node: onnx.NodeProto, given: Mapping[str, Any], constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Tell whether a node reduces height and width, and nothing else."""
    if node.op_type not in REDUCTIONS:
        return True
    axes = given.get("axes")
    if axes is None and len(node.input) == 2 and node.input[1] in constants:
        axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
    return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]


def pool_node(source: str, target: str, pooling: Pooling) -> onnx.NodeProto:
    """Return our operator between two values."""
    return onnx.helper.make_node(
        POOL_OPERATOR, [source], [target], f"{target}.pool", domain=DOMAIN, **pool_attributes(pooling)
    )

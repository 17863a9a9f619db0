"""What nodes of an ONNX graph do: which are ours, which our operator can take in, and which work on blocked images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from hetcompress.kernels.onnx_export import DOMAIN, OPERATOR

__all__ = ["BIAS", "IMAGES", "RESIDUAL", "VALUES", "Shape", "is_elementwise", "limits_of", "ours"]

IMAGES, VALUES, BIAS, RESIDUAL = 0, 1, 4, 5
"""Places among the operator's inputs."""
UNARY = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Identity"}
BINARY = {"Add", "Sub", "Mul"}

Shape = tuple[int | None, ...]


def ours(node: onnx.NodeProto) -> bool:
    """Tell whether a node is our convolution."""
    return bool(node.domain == DOMAIN and node.op_type == OPERATOR)


def is_elementwise(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Tell whether a node computes each number from those at its place alone."""
    if node.op_type in BINARY:
        return len({shapes.get(name) for name in node.input}) == 1
    return node.op_type in UNARY


def limits_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float] | None:
    """Return what a ReLU or a clip limits values to; None for others, and for limits that are not fixed or cross."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [*node.input[1:], "", ""][:2]
    if node.op_type != "Clip" or any(name and name not in constants for name in ends):
        return None
    low, high = (
        float(onnx.numpy_helper.to_array(constants[name])) if name else default
        for name, default in zip(ends, (-np.inf, np.inf), strict=True)
    )
    return (low, high) if low <= high else None

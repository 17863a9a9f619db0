"""Our own kernel in quantised ONNX files.

onnxruntime's quantiser does not know our operator.  So it is given the model with ordinary convolutions instead, whose
weights have zeros, and afterwards

    DequantizeLinear, Conv, QuantizeLinear   become one QLinearVectorBlockConv2d

where enough of the weights are zero for that to be faster.  A convolution that stays fp32 becomes a VectorBlockConv2d.
A max pooling behind ours becomes onnxruntime's for images with their channels last: that of planar images took 13 times
as long.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hetcompress import kernels
from hetcompress.kernels.int8_library import Held
from hetcompress.kernels.int8_onnx import INT8_OPERATOR, Int8Filters, int8_node
from hetcompress.kernels.library import VECTORS
from hetcompress.nn.lowered import Chain, Pad
from hetcompress.surgery import named_modules_of, replace_modules_

__all__ = ["ordinary", "use_kernels"]

RUNTIME_DOMAIN = "com.microsoft"

GATHER = 4
"""Operations that put together what a unit of V multiplications reads."""

WORTH = 0.4
"""Share of the operations of all weights, at V = 16, up to which our kernel is the faster one: on layers of VGG-16 and
ResNet-34 it was 1.5 times as fast as onnxruntime's dense one at .25 and 0.93 times at .5 (decision 5)."""


def ordinary(model: nn.Module) -> nn.Module:
    """Return a copy of a model with an ordinary convolution for each of ours."""
    twin = copy.deepcopy(model)
    ours = named_modules_of(twin, kernels.VectorBlockConv2d)
    return replace_modules_(twin, {name: _convolution(layer) for name, layer in ours.items()})


def _convolution(layer: kernels.VectorBlockConv2d) -> nn.Module:
    g = layer.geometry
    top, left, bottom, right = g.padding
    even = (top, left) == (bottom, right)
    conv = nn.Conv2d(
        g.in_channels, g.out_channels, g.kernel_size, g.stride, (top, left) if even else 0, g.dilation, g.groups,
        bias=layer.bias is not None,
    )  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(layer.dense_weight())
        if conv.bias is not None and layer.bias is not None:
            conv.bias.copy_(layer.bias)
    return (conv if even else Chain([Pad((left, right, top, bottom)), conv])).train(layer.training)


def use_kernels(model: onnx.ModelProto) -> int:
    """Put our operators into a quantised model, in place, where they are worth it.

    Returns:
        How many of them.
    """
    graph = _Graph(model.graph)
    count = sum(graph.replace(node) for node in list(model.graph.node) if node.op_type == "Conv")
    if count:
        pools = sum(graph.replace_pool(node) for node in list(model.graph.node) if node.op_type == "MaxPool")
        graph.sweep()
        model.opset_import.append(onnx.helper.make_opsetid(kernels.DOMAIN, 1))
        if pools:
            model.opset_import.append(onnx.helper.make_opsetid(RUNTIME_DOMAIN, 1))
    return count


def _packed(weight: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the kept vectors, with V such that they take the fewest operations; None if that is not worth it."""
    packed = {vector: kernels.pack(weight, groups, vector) for vector in VECTORS}
    operations = {vector: len(lists[0]) * (vector + GATHER) for vector, lists in packed.items()}
    best = min(operations, key=operations.__getitem__)
    dense = weight.numel() * (1 + GATHER / 16)
    return packed[best] if operations[best] <= WORTH * dense else None


class _Graph:
    """A graph whose convolutions are replaced one by one."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.writer = {name: node for node in graph.node for name in node.output}
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.readers.update(value.name for value in graph.output)

    def replace(self, conv: onnx.NodeProto) -> bool:
        """Replace a convolution if our kernel can compute it and is worth it."""
        return self._replace_int8(conv) or self._replace_fp32(conv)

    def replace_pool(self, pool: onnx.NodeProto) -> bool:
        """Replace a max pooling of what our kernel wrote in 8 bits."""
        images, quantise = self._quantised(pool.input[0]), self._only_reader(pool)
        if images is None or quantise is None or quantise.op_type != "QuantizeLinear" or len(pool.output) != 1:
            return False
        source, held = images
        ours = any(node.op_type == INT8_OPERATOR and source in node.output for node in self.graph.node)
        if not ours or held != self._held(quantise):
            return False
        before, after = f"{pool.output[0]}.last", f"{pool.output[0]}.pooled"
        kept = {a.name: onnx.helper.get_attribute_value(a) for a in pool.attribute if a.name != "storage_order"}
        nodes = [
            onnx.helper.make_node("Transpose", [source], [before], f"{pool.name}.before", perm=[0, 2, 3, 1]),
            onnx.helper.make_node("NhwcMaxPool", [before], [after], pool.name, domain=RUNTIME_DOMAIN, **kept),
            onnx.helper.make_node("Transpose", [after], [quantise.output[0]], f"{pool.name}.after", perm=[0, 3, 1, 2]),
        ]
        place = self._place(quantise)
        self.graph.node.remove(quantise)
        for node in reversed(nodes):
            self.graph.node.insert(place, node)
        self.graph.node.remove(pool)
        return True

    def sweep(self) -> None:
        """Drop dequantisations and constants that nothing reads any more."""
        read = {name for node in self.graph.node for name in node.input} | {value.name for value in self.graph.output}
        nodes = [node for node in self.graph.node if node.op_type != "DequantizeLinear" or node.output[0] in read]
        read = {name for node in nodes for name in node.input}
        constants = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(constants)

    def _replace_int8(self, conv: onnx.NodeProto) -> bool:
        images, quantise = self._quantised(conv.input[0]), self._only_reader(conv)
        weight = self._quantised_constant(conv.input[1], np.int8)
        if images is None or weight is None or quantise is None or quantise.op_type != "QuantizeLinear":
            return False
        (source, held_in), held_out, geometry = images, self._held(quantise), _geometry(conv, weight[0].shape)
        bias = self._bias(conv, weight[1] * np.float32(held_in.scale))
        if held_out is None or geometry is None or (bias is None and len(conv.input) > 2):
            return False
        packed = _packed(torch.tensor(weight[0]), geometry.groups)
        if packed is None:
            return False
        (values, taps, starts), scales = packed, np.broadcast_to(weight[1], (geometry.out_channels,)).copy()
        filters = Int8Filters(values, torch.tensor(scales), taps, starts, None if bias is None else torch.tensor(bias))
        name = conv.name or conv.output[0]
        node, constants = int8_node(name, source, quantise.output[0], filters, geometry, held_in, held_out)
        self._put(quantise, node, constants)
        self.graph.node.remove(conv)
        return True

    def _replace_fp32(self, conv: onnx.NodeProto) -> bool:
        weight = self.constants.get(conv.input[1])
        if weight is None or weight.dtype != np.float32 or weight.ndim != 4:
            return False
        packed, geometry = _packed(torch.tensor(weight), _attribute(conv, "group", 1)), _geometry(conv, weight.shape)
        if packed is None or geometry is None:
            return False
        names = [f"{conv.name or conv.output[0]}.{kind}" for kind in ("values", "taps", "starts")]
        constants = [onnx.numpy_helper.from_array(t.numpy(), n) for t, n in zip(packed, names, strict=True)]
        inputs, attributes = [conv.input[0], *names, *conv.input[2:]], kernels.attributes(geometry)
        node = onnx.helper.make_node(
            kernels.OPERATOR, inputs, list(conv.output), conv.name, domain=kernels.DOMAIN, **attributes
        )
        self._put(conv, node, constants)
        return True

    def _put(self, old: onnx.NodeProto, new: onnx.NodeProto, constants: list[onnx.TensorProto]) -> None:
        self.graph.node[self._place(old)].CopyFrom(new)
        self.graph.initializer.extend(constants)

    def _place(self, node: onnx.NodeProto) -> int:
        return next(i for i, other in enumerate(self.graph.node) if other.output[0] == node.output[0])

    def _only_reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        if self.readers[node.output[0]] != 1:
            return None
        return next((reader for reader in self.graph.node if node.output[0] in reader.input), None)

    def _quantised(self, name: str) -> tuple[str, Held] | None:
        """Return the uint8 value behind a dequantised one."""
        node = self.writer.get(name)
        held = self._held(node) if node is not None and node.op_type == "DequantizeLinear" else None
        return None if held is None or node is None else (node.input[0], held)

    def _held(self, node: onnx.NodeProto) -> Held | None:
        scale, zero = (self.constants.get(name) for name in [*node.input, ""][1:3])
        if scale is None or zero is None or scale.size != 1 or zero.dtype != np.uint8:
            return None
        return Held(float(scale.reshape(())), int(zero.reshape(())))

    def _quantised_constant(self, name: str, kind: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return a constant and its scales behind a dequantised value; its zero has to be 0."""
        node = self.writer.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        values, scales, zeros = (self.constants.get(name) for name in [*node.input, ""][:3])
        if values is None or scales is None or values.dtype != kind or (zeros is not None and zeros.any()):
            return None
        filters = scales.size == 1 or (_attribute(node, "axis", 1) == 0 and scales.size == len(values))
        return (values, scales) if filters else None

    def _bias(self, conv: onnx.NodeProto, scales: NDArray[Any]) -> NDArray[Any] | None:
        """Return the bias of a convolution if it is held in steps of these scales."""
        found = self._quantised_constant(conv.input[2], np.int32) if len(conv.input) > 2 else None
        return found[0] if found is not None and np.allclose(found[1], scales, rtol=1e-5, atol=0) else None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _geometry(conv: onnx.NodeProto, shape: tuple[int, ...]) -> kernels.Geometry | None:
    if _attribute(conv, "auto_pad", b"NOTSET") != b"NOTSET" or len(shape) != 4:
        return None
    groups, (filters, channels, rows, columns) = _attribute(conv, "group", 1), shape
    strides, dilations = (tuple(_attribute(conv, name, [1, 1])) for name in ("strides", "dilations"))
    pads = tuple(_attribute(conv, "pads", [0, 0, 0, 0]))
    return kernels.Geometry(channels * groups, filters, groups, (rows, columns), strides, pads, dilations)

"""Lowered layers as ONNX nodes, written directly.

A layer of a hundred small convolutions takes torch's exporter minutes.  So the exporter sees each lowered layer as one
unknown operator, and the nodes of that layer are put in its place afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from hetcompress import kernels
from hetcompress.nn.lowered import Branch, Chain, Concat, Form, Pad, Sum, TapGather

__all__ = ["LayerNodes", "form_model", "opaque", "put_in_place"]

DOMAIN = "hetcompress.form"
PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


Sizes = tuple[int, ...]
Placed = dict[str, Form]
"""Forms by name."""


class _Opaque(nn.Module):
    """One operator in place of a form, for each of its calls: sizes of the output, by those of the input."""

    def __init__(self, name: str, shapes: dict[Sizes, Sizes]) -> None:
        super().__init__()
        self.name, self.shapes = name, shapes

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        shape = self.shapes[tuple(x.shape[1:])]
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::Form",
            (x, *others),
            {"name": self.name, "shape": list(shape)},
            dtype=x.dtype,
            shape=(x.shape[0], *shape),
            version=1,
        )


def roots(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, Form]]:
    """Yield the forms of a model that are not parts of another form, with their names."""
    for name, child in model.named_children():
        if isinstance(child, Form):
            yield prefix + name, child
        else:
            yield from roots(child, f"{prefix}{name}.")


@torch.no_grad()
def opaque(model: nn.Module, example: Tensor) -> tuple[nn.Module, Placed]:
    """Return a copy of a model with a stand-in for each form, and the forms.

    Args:
        model: In eval mode; weights are shared with the copy.
        example: Images for one run, which tells how large the output of each form is.
    """
    forms = dict(roots(model))
    shapes: dict[str, dict[Sizes, Sizes]] = {}
    with contextlib.ExitStack() as hooks:
        for name, form in forms.items():

            def note(_module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
                shapes.setdefault(name, {})[tuple(inputs[0].shape[1:])] = tuple(output.shape[1:])

            hooks.callback(form.register_forward_hook(note).remove)
        if forms:
            model(example)
    stand_ins = {id(forms[name]): _Opaque(name, sizes) for name, sizes in shapes.items()}
    # deepcopy takes what the memo holds as copied already: forms become stand-ins, weights stay shared
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo | stand_ins), {name: forms[name] for name in shapes}


def put_in_place(model: onnx.ModelProto, forms: Placed) -> None:
    """Replace each stand-in of a model by the nodes of its form; calls of one form share its constants."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    calls: Counter[str] = Counter()
    for node in graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        told = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        name = told["name"].decode()
        layer = LayerNodes(f"{name}." if not calls[name] else f"{name}.call_{calls[name]}.", f"{name}.")
        layer.emit(forms[name], *node.input)
        layer.nodes[-1].output[0] = node.output[0]  # what a form adds last is its result
        graph.value_info.append(
            onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, ["batch", *told["shape"]])
        )
        nodes.extend(layer.nodes)
        if not calls[name]:
            graph.initializer.extend(layer.initializers)
        calls[name] += 1
    del graph.node[:]
    graph.node.extend(nodes)
    domains = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend([*domains, *own_operators(nodes)])


def own_operators(nodes: Iterable[onnx.NodeProto]) -> list[onnx.OperatorSetIdProto]:
    """Return what a model that has our own operators among its nodes must import."""
    used = any(node.domain == kernels.DOMAIN for node in nodes)
    return [onnx.helper.make_opsetid(kernels.DOMAIN, 1)] if used else []


def _made_by_ours(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.ValueInfoProto]:
    """Yield what our own convolutions make, which no inference of shapes knows."""
    for node in nodes:
        if node.domain == kernels.DOMAIN and node.op_type == kernels.OPERATOR:
            told = {attribute.name: attribute.i for attribute in node.attribute}
            shape = ["n", told["out_channels"], None, None]
            yield onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, shape)


def form_model(form: nn.Module, channels: int, opset: int) -> onnx.ModelProto:
    """Return a model of one form alone, with input "input", output "output" and any batch and image size.

    Args:
        form: A `Form`, a convolution, or a `Chain` of them.
        channels: Of the input.
        opset: Version of the operators.
    """
    layer = LayerNodes("")
    result = layer.emit(form, "input")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size, None, None])
        for name, size in (("input", channels), (result, None))
    ]
    graph = onnx.helper.make_graph(layer.nodes, "form", values[:1], values[1:], layer.initializers)
    graph.value_info.extend(value for value in _made_by_ours(layer.nodes) if value.name != result)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset), *own_operators(layer.nodes)], ir_version=10
    )


class LayerNodes:
    """Collects the nodes of one form.

    Args:
        prefix: Of the names of all values; unique in the graph.
        shared: Of the names of constants, where another call of the form has them too; None for the same prefix.

    Attributes:
        nodes: In the order in which they run.
        initializers: Weights and indices.
    """

    def __init__(self, prefix: str, shared: str | None = None) -> None:
        self.prefix, self.shared = prefix, prefix if shared is None else shared
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = f"{self.prefix}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, values: Any) -> str:
        """Add an initializer and return its name."""
        name = f"{self.shared}value_{len(self.initializers)}"
        array = values.detach().numpy(force=True) if isinstance(values, Tensor) else np.asarray(values, np.int64)
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    @functools.singledispatchmethod
    def emit(self, module: nn.Module, x: str, *others: str) -> str:  # noqa: ARG002
        """Add the nodes of a module that reads `x`; return the name of its output."""
        raise TypeError(f"{type(module).__name__} is no part of a lowered layer")

    @emit.register
    def _(self, module: nn.Conv2d, x: str) -> str:
        left, right, top, bottom = reversed_sides(module)
        if module.padding_mode == "zeros":
            return self.conv(module, x, [top, left, bottom, right])
        return self.conv(module, self.emit(Pad((left, right, top, bottom), module.padding_mode), x), [0, 0, 0, 0])

    @emit.register
    def _(self, module: kernels.VectorBlockConv2d, x: str, residual: str = "") -> str:
        inputs = [self.constant(values) for values in (module.values, module.taps, module.starts)]
        optional = ["" if module.bias is None else self.constant(module.bias), residual]
        while optional and not optional[-1]:
            optional.pop()
        attributes = kernels.attributes(module.geometry)
        return self.node(kernels.OPERATOR, x, *inputs, *optional, domain=kernels.DOMAIN, **attributes)

    @emit.register
    def _(self, module: nn.ReLU, x: str) -> str:  # noqa: ARG002
        return self.node("Relu", x)

    @emit.register
    def _(self, module: Pad, x: str) -> str:
        left, right, top, bottom = module.grow
        if any(module.grow):
            pads = self.constant([0, 0, top, left, 0, 0, bottom, right])
            x = self.node("Pad", x, pads, mode=PAD_MODES[module.mode])
        if not module.cuts:
            return x
        starts = self.constant([module.rows.start, module.columns.start])
        ends = self.constant(
            [np.iinfo(np.int64).max if side.stop is None else side.stop for side in (module.rows, module.columns)]
        )
        return self.node("Slice", x, starts, ends, self.constant([2, 3]))

    @emit.register
    def _(self, module: Branch, x: str) -> str:
        if module.span is not None:
            start, end = (self.constant([place]) for place in module.span)
            x = self.node("Slice", x, start, end, self.constant([1]))
        if module.channels is not None:
            x = self.node("Gather", x, self.constant(module.channels), axis=1)
        grow, pad = (0, 0, 0, 0), module.pad
        if pad is not None and pad.mode == "constant" and not pad.cuts:
            grow = pad.grow  # the convolution pads each side by itself, which torch's cannot
        elif pad is not None:
            x = self.emit(pad, x)
        sides = reversed_sides(module.conv)
        left, right, top, bottom = (a + b for a, b in zip(grow, sides, strict=True))
        return self.conv(module.conv, x, [top, left, bottom, right])

    @emit.register
    def _(self, module: TapGather, x: str) -> str:
        x = self.emit(module.pad, x)
        axes = self.constant([2, 3])
        steps = self.constant(list(module.stride))
        views = []
        for row, column in module.shifts:
            starts = self.constant([row, column])
            left_over = (module.kernel_extent[0] - 1 - row, module.kernel_extent[1] - 1 - column)
            ends = self.constant([-rest if rest else np.iinfo(np.int64).max for rest in left_over])
            views.append(self.node("Slice", x, starts, ends, axes, steps))
        gathered = views[0] if len(views) == 1 else self.node("Concat", *views, axis=1)
        filters = [self.emit(branch, gathered) for branch in module.branches]
        return filters[0] if len(filters) == 1 else self.node("Concat", *filters, axis=1)

    @emit.register
    def _(self, module: Sum, x: str) -> str:
        return functools.reduce(lambda total, part: self.node("Add", total, self.emit(part, x)), module.parts[1:],
                                self.emit(module.parts[0], x))  # fmt: skip

    @emit.register
    def _(self, module: Concat, x: str) -> str:
        filters = [self.emit(part, x) for part in module.parts]
        joined = filters[0] if len(filters) == 1 else self.node("Concat", *filters, axis=1)
        return joined if module.order is None else self.node("Gather", joined, self.constant(module.order), axis=1)

    @emit.register
    def _(self, module: Chain, x: str) -> str:
        return functools.reduce(lambda value, step: self.emit(step, value), module.steps, x)

    def conv(self, conv: nn.Conv2d, x: str, pads: list[int]) -> str:
        """Add a convolution with this padding: top, left, bottom, right."""
        inputs = [self.constant(conv.weight), *([] if conv.bias is None else [self.constant(conv.bias)])]
        return self.node(
            "Conv", x, *inputs, kernel_shape=list(conv.kernel_size), strides=list(conv.stride),
            dilations=list(conv.dilation), group=conv.groups, pads=pads,
        )  # fmt: skip


def reversed_sides(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return the padding of a convolution, "same" included: left, right, top, bottom."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice  # noqa: SLF001  torch keeps it ready for F.pad
    return left, right, top, bottom

"""The choice of layouts in an ONNX graph: attributes of our operators, our pools, and reorders where others begin."""

from __future__ import annotations

import onnx

from hetcompress.kernels.layouts import Layouts, Step, choose_layouts, convolution_step, parted
from hetcompress.kernels.library import Geometry
from hetcompress.kernels.onnx_nodes import IMAGES, RESIDUAL, VALUES, Shape, is_elementwise, ours
from hetcompress.kernels.onnx_pools import pool_node, pooling_of
from hetcompress.kernels.pooling import Pooling

__all__ = ["lay_out"]


def lay_out(graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
    """Set the layouts of our operators, put pools of ours in the place of others, and reorder where need be.

    Args:
        graph: Changed in place.
        shapes: Of its values, planar, as far as they are known.
    """
    _Graph(graph, shapes).lay_out()


class _Graph:
    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.fixed = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self.pools = self._pools()

    def lay_out(self) -> None:
        steps = parted(self._step(node) for node in self.graph.node)
        layouts = choose_layouts(steps, self._fits)
        nodes: list[onnx.NodeProto] = []
        for node, step in zip(self.graph.node, steps, strict=True):
            made = self._in_layout(node, step, layouts)
            for place, name in enumerate(made[0].input):
                copy = layouts.copy_for(step, name)
                if copy is not None:
                    made[0].input[place] = f"{name}_{copy}"
            nodes.extend(made)
            for name in node.output:
                if name in layouts.written:
                    nodes.append(self._reorder(name, f"{name}_blocked", 0, layouts.blocked[name]))
                elif name in layouts.read:
                    nodes.append(self._reorder(name, f"{name}_planar", layouts.blocked[name], 0))
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._tell_shapes(layouts)

    def _tell_shapes(self, layouts: Layouts) -> None:
        """Note the shapes of blocked values, without which onnxruntime gives sums a buffer of their own."""
        batch = self.graph.input[0].type.tensor_type.shape.dim[0]
        for name, vector in layouts.blocked.items():
            _, channels, *size = self.shapes[name]
            if channels is None or None in size:
                continue
            shape = [batch.dim_param or batch.dim_value, -(-channels // vector), *size, vector]
            told = f"{name}_blocked" if name in layouts.written else name
            self.graph.value_info.append(onnx.helper.make_tensor_value_info(told, onnx.TensorProto.FLOAT, shape))

    def _pools(self) -> dict[str, Pooling]:
        """Return the pools of what our operator wrote, by output: behind another, a reorder costs less after it."""
        written: set[str] = set()
        pools: dict[str, Pooling] = {}
        for node in self.graph.node:
            follows = bool(written.intersection(node.input))
            pooling = pooling_of(node, self.shapes.get(node.input[0]), self.constants) if follows else None
            if pooling:
                pools[node.output[0]] = pooling
            if ours(node) or pooling or (follows and is_elementwise(node, self.shapes)):
                written.add(node.output[0])
        return pools

    def _step(self, node: onnx.NodeProto) -> Step:
        reads, writes = tuple(name for name in node.input if name), tuple(node.output)
        if ours(node):
            given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            geometry = Geometry(given["in_channels"], given["out_channels"], given["group"])
            values, residual = self.constants.get(node.input[VALUES]), [name for name in node.input[RESIDUAL:] if name]
            vector = values.dims[1] if values is not None else 0
            return convolution_step((node.input[IMAGES], *residual), node.output[0], geometry, vector)
        if node.output[0] in self.pools:
            return Step(reads, writes, ends=(node.input[0], node.output[0]))
        if not is_elementwise(node, self.shapes):
            return Step(reads, writes)
        return Step(reads, writes, (node.output[0], *(node.input if node.op_type != "Clip" else node.input[:1])))

    def _fits(self, name: str, vector: int) -> bool:
        shape = self.shapes.get(name)
        return name not in self.fixed and vector > 0 and shape is not None and len(shape) == 4 and bool(shape[1])

    def _in_layout(self, node: onnx.NodeProto, step: Step, layouts: Layouts) -> list[onnx.NodeProto]:
        """Return what a node becomes: itself in other layouts, or a pool of ours in its place."""
        name = node.output[0]
        before, after = (layouts.of(step, names[0]) if names else 0 for names in (node.input, node.output))
        if ours(node):
            settings = {"layout_in": int(before > 0), "layout_out": int(after > 0)}
            for attribute in node.attribute:
                if attribute.name in settings:
                    attribute.i = settings[attribute.name]
        elif name in self.pools and (before or after):
            pooling = self.pools[name].between(before, after)
            if len(self.shapes.get(name) or ()) != 2:
                return [pool_node(node.input[0], name, pooling)]
            # a mean over height and width that leaves these out
            flat = onnx.helper.make_node("Flatten", [f"{name}_pixel"], [name], axis=1)
            return [pool_node(node.input[0], f"{name}_pixel", pooling), flat]
        return [node]

    def _reorder(self, source: str, target: str, before: int, after: int) -> onnx.NodeProto:
        return pool_node(source, target, Pooling(self.shapes[source][1] or 1).between(before, after))

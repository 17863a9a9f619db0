"""The passes of `fusion` over torch models: our layers compute what follows them, and exchange blocked tensors.

The model is traced by torch.fx and put together anew.  Weights are shared with the original, whose modules keep their
names.  What cannot be traced, or comes out differently, stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from hetcompress.kernels.layouts import Layouts, Step, choose_layouts, convolution_step, parted
from hetcompress.kernels.library import available
from hetcompress.kernels.module import VectorBlockConv2d
from hetcompress.kernels.pool_module import BlockedPool2d
from hetcompress.kernels.pooling import Pooling
from hetcompress.kernels.torch_nodes import is_elementwise, is_sum, limits_of
from hetcompress.kernels.torch_pools import pooling_of
from hetcompress.kernels.torch_shortcuts import shortcut_of
from hetcompress.kernels.torch_stems import stems
from hetcompress.kernels.torch_tracing import UnfitError, foreign_code, shape_of, traced

__all__ = ["Fused", "fuse_torch"]

TOLERANCE = 1e-4
"""Largest difference to the original, relative to the largest output: sums are rounded in another order."""


@dataclasses.dataclass(frozen=True)
class Fused:
    """A model for torch alone.

    Attributes:
        model: Computes what the original does, and shares its weights.  Those of `torch_stems` are copies, and padded
            shortcuts have constant ones of their own.
        note: Why it is the original itself; empty if it is not, or has none of our layers.
    """

    model: nn.Module
    note: str


def fuse_torch(model: nn.Module, example: Float[Tensor, "n c h w"]) -> Fused:
    """Return a model in which our layers compute what follows them and exchange blocked tensors.

    Args:
        model: In eval mode; takes one tensor and returns one; left alone.
        example: Images of the size that the model is for.  The batch stays free.
    """
    if not any(isinstance(module, VectorBlockConv2d) for module in model.modules()) or not available()[0]:
        return Fused(model, "")
    try:
        with torch.no_grad():
            fused = traced(model, example)
            _Fusion(fused).run()
            problem = _difference(model, fused, example)
    except UnfitError as error:
        problem = str(error)
    return Fused(model, f"kernel layers run one by one: {problem}") if problem else Fused(fused, "")


def _difference(model: nn.Module, fused: nn.Module, example: Tensor) -> str:
    """Return how two models differ on random images, at two batch sizes; nothing if they do not."""
    for batch in (1, 3):
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, *example.shape[1:], generator=generator).to(example)
        with foreign_code():
            expected, found = model(images.clone()), fused(images.clone())
        most = TOLERANCE * max(float(expected.abs().max()), 1e-12)
        if found.shape != expected.shape or not float((found - expected).abs().max()) <= most:
            return "traced, the model computes something else"
    return ""


class _Fusion:
    """Rewrites a traced model.

    What our layers will do differently is noted at their nodes; the layers themselves are replaced at the end.

    Args:
        model: Traced.
    """

    def __init__(self, model: fx.GraphModule) -> None:
        self.model, self.graph = model, model.graph
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.copies: dict[tuple[fx.Node, str], fx.Node] = {}

    def run(self) -> None:
        """Fuse what follows our layers, then choose layouts."""
        self._follow_all()
        for name, layer in stems(self.graph, self.modules).items():
            self.model.set_submodule(name, layer)
            self.modules[name] = layer
        self._follow_all()
        self._replace_shortcuts()
        self._choose_layouts()
        self._replace_layers()
        self.graph.lint()
        self.model.delete_all_unused_submodules()
        self.model.recompile()

    def _layer(self, node: fx.Node) -> VectorBlockConv2d | None:
        """Return the layer of a node, unless limits or layouts were set by hand."""
        layer = self.modules.get(str(node.target)) if node.op == "call_module" and len(node.args) == 1 else None
        return layer if isinstance(layer, VectorBlockConv2d) and layer.is_plain else None

    def _follow_all(self) -> None:
        for node in list(self.graph.nodes):
            follower: fx.Node | None = node
            while follower is not None:
                follower = self._follow(follower)

    def _follow(self, node: fx.Node) -> fx.Node | None:
        """Take the only reader of one of our layers into it, if that can be; return the node that does both."""
        reader, changes = next(iter(node.users), None), node.meta.get("changes", {})
        if self._layer(node) is None or reader is None or len(node.users) != 1 or changes:
            return None
        limits, residual = limits_of(reader, self.modules), dict(node.kwargs)
        if limits is not None:
            changes = {"low": limits[0], "high": limits[1]}
        elif not residual and self._adds(node, reader):
            (residual["residual"],) = (other for other in reader.all_input_nodes if other is not node)
        else:
            return None
        # the reader's place is late enough for everything that both read
        with self.graph.inserting_before(reader):
            both = self.graph.call_module(str(node.target), node.args, residual)
        both.meta = {**reader.meta, "changes": changes}
        reader.replace_all_uses_with(both)
        self.graph.erase_node(reader)
        self.graph.erase_node(node)
        return both

    def _adds(self, node: fx.Node, reader: fx.Node) -> bool:
        shapes = {shape_of(value) for value in reader.all_input_nodes}
        return is_sum(reader, self.modules) and len(shapes) == 1 and len(shape_of(node)) == 4

    def _replace_shortcuts(self) -> None:
        """Put layers of ours in the place of padded shortcuts that our layers add."""
        for node in list(self.graph.nodes):
            layer, residual = self._layer(node), node.kwargs.get("residual")
            if layer is None or not isinstance(residual, fx.Node) or len(residual.users) != 1:
                continue
            found = shortcut_of(residual)
            # one more vector length would make all that shares the source's layout planar
            if found is not None and self._vectors(found[0]) <= {layer.vector}:
                source, shortcut = found
                before = residual.all_input_nodes[0]
                self._replace(residual, shortcut.layer(layer.vector), source)
                if not before.users:
                    self.graph.erase_node(before)

    def _vectors(self, value: fx.Node) -> set[int]:
        """Return V of the layers of ours that write or read a value."""
        layers = [self._layer(node) for node in (value, *value.users)]
        return {layer.vector for layer in layers if layer is not None}

    def _choose_layouts(self) -> None:
        shapes = {node.name: shape_of(node) for node in self.graph.nodes}
        nodes = list(self.graph.nodes)
        pools = {node: pooling_of(node, self.modules) for node in nodes}
        steps = parted(self._step(node, pools[node]) for node in nodes)
        layouts = choose_layouts(steps, lambda value, _vector: len(shapes[value]) == 4)
        for node, step in zip(nodes, steps, strict=True):
            if self._layer(node) is not None:
                before, after = (layouts.of(step, value) for value in (step.reads[0], node.name))
                changes = {"layout_in": int(before > 0), "layout_out": int(after > 0)}
                node.meta["changes"] = node.meta.get("changes", {}) | changes
            for value in node.all_input_nodes:
                copy = layouts.copy_for(step, value.name)
                if copy is not None:
                    node.replace_input_with(value, self._copy(value, copy, layouts))
        for node, step in zip(nodes, steps, strict=True):
            pooling = pools[node]
            if pooling is not None:
                before, after = (layouts.of(step, value) for value in (step.reads[0], node.name))
                if before or after:
                    self._replace(node, BlockedPool2d(pooling.between(before, after)), node.all_input_nodes[0])

    def _step(self, node: fx.Node, pooling: Pooling | None) -> Step:
        """Describe a node; channels that do not fill their blocks are no obstacle here."""
        reads, writes, layer = tuple(value.name for value in node.all_input_nodes), (node.name,), self._layer(node)
        if layer is not None:
            values = (node.args[0], *node.kwargs.values())
            reads = tuple(value.name for value in values if isinstance(value, fx.Node))
            return convolution_step(reads, node.name, layer.geometry, layer.vector)
        if pooling is not None:
            return Step(reads, writes, ends=(*reads, *writes))
        shapes = [shape_of(value) for value in (node, *node.all_input_nodes)]
        # height and width may be broadcast
        fit = {len(shape) for shape in shapes} == {4} and len({shape[:2] for shape in shapes}) == 1
        return Step(reads, writes, (*writes, *reads) if fit and is_elementwise(node, self.modules) else ())

    def _copy(self, value: fx.Node, layout: str, layouts: Layouts) -> fx.Node:
        """Return a node that reorders a value, the same for all readers."""
        if (value, layout) not in self.copies:
            vector = layouts.blocked[value.name]
            ends = (0, vector) if layout == "blocked" else (vector, 0)
            module = BlockedPool2d(Pooling(shape_of(value)[1]).between(*ends))
            with self.graph.inserting_after(value):
                self.copies[value, layout] = self.graph.call_module(
                    self._add(f"{value.name}_{layout}", module), (value,)
                )
        return self.copies[value, layout]

    def _replace(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        """Put a module that reads a value in the place of a node."""
        with self.graph.inserting_before(node):
            ours = self.graph.call_module(self._add(f"{node.name}_ours", module), (source,))
        ours.meta = dict(node.meta)
        node.replace_all_uses_with(ours)
        self.graph.erase_node(node)

    def _replace_layers(self) -> None:
        """Give each node its own layer, in the place of the original's where no other node calls that."""
        nodes = [node for node in self.graph.nodes if self._layer(node) is not None]
        calls = Counter(node.target for node in nodes)
        for node in nodes:
            layer = self._layer(node)
            assert layer is not None
            twin = layer.with_geometry(**node.meta.pop("changes"))
            node.target = self._add(str(node.target), twin) if calls[node.target] > 1 else str(node.target)
            self.model.set_submodule(node.target, twin)

    def _add(self, name: str, module: nn.Module) -> str:
        """Add a module under a name that is not taken, and return that."""
        free, number = name, 0
        while free in self.modules or hasattr(self.model, free):
            number += 1
            free = f"{name}_{number}"
        self.model.add_submodule(free, module)
        self.modules[free] = module
        return free

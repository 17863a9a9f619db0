"""The passes of `fusion` over torch models: our layers compute what follows them, and exchange blocked tensors.

The model is traced by torch.fx and put together anew.  Weights are shared with the original, whose modules keep their
names.  What cannot be traced, or comes out differently, stays as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from hetcompress.kernels.blocked_layers import BlockedMaxPool2d, BlockedPool2d, ToBlocked, ToPlanar
from hetcompress.kernels.layouts import Layouts, Step, choose_layouts
from hetcompress.kernels.library import available
from hetcompress.kernels.module import VectorBlockConv2d
from hetcompress.kernels.torch_nodes import (
    changes_in_place,
    is_elementwise,
    is_sum,
    limits_of,
    passes_through,
    pool_of,
)
from hetcompress.nn.lowered import Chain, Form

__all__ = ["Fused", "fuse_torch"]

TOLERANCE = 1e-4
"""Largest difference to the original, relative to the largest output: sums are rounded in another order."""


@dataclasses.dataclass(frozen=True)
class Fused:
    """A model for torch alone.

    Attributes:
        model: Computes what the original does, and shares its weights.
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
            traced = _traced(model, example)
            _Fusion(traced).run()
            problem = _difference(model, traced, example)
    except _UnfitError as error:
        problem = str(error)
    return Fused(model, f"kernel layers run one by one: {problem}") if problem else Fused(traced, "")


class _UnfitError(Exception):
    """Why a model cannot be put together anew."""


@contextlib.contextmanager
def _foreign_code() -> Iterator[None]:
    """Turn whatever a model's own code raises under a tracer into `_UnfitError`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  it may be anything
        raise _UnfitError((str(error).strip().splitlines() or [type(error).__name__])[0]) from None


def _difference(model: nn.Module, fused: nn.Module, example: Tensor) -> str:
    """Return how two models differ on random images, at two batch sizes; nothing if they do not."""
    for batch in (1, 3):
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, *example.shape[1:], generator=generator).to(example)
        expected = model(images.clone())
        with _foreign_code():
            found = fused(images.clone())
        most = TOLERANCE * max(float(expected.abs().max()), 1e-12)
        if found.shape != expected.shape or not float((found - expected).abs().max()) <= most:
            return "traced, the model computes something else"
    return ""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep our layers and other forms whole."""
        return isinstance(m, Form) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Look into chains: they pad in some other way than with zeros, and then run one of our layers."""
        if isinstance(m, Chain):
            return functools.reduce(lambda x, step: step(x), m.steps, *args)
        return super().call_module(m, forward, args, kwargs)


def _traced(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the model as a graph whose nodes know the shapes of their values."""
    with _foreign_code():
        traced = fx.GraphModule(model, _Tracer().trace(model), type(model).__name__).eval()
    _drop_identities(traced)
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.all_input_nodes and changes_in_place(node, modules) and len(node.all_input_nodes[0].users) > 1:
            raise _UnfitError(f"{node} writes to what others read")
    with _foreign_code():
        # a batch of 1 would look like a size that is broadcast
        _Shapes(traced).run(example.new_zeros(2, *example.shape[1:]))
    return traced


def _drop_identities(traced: fx.GraphModule) -> None:
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if passes_through(node, modules):
            node.replace_all_uses_with(node.all_input_nodes[0])
            traced.graph.erase_node(node)


class _Shapes(fx.Interpreter):
    """Notes the shape of each tensor at its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a tensor; of what is none, that of a number."""
    shape: tuple[int, ...] = node.meta.get("shape", ())
    return shape


class _Fusion:
    """Rewrites a traced model.

    What our layers will do differently is noted at their nodes; the layers themselves are replaced at the end.

    Args:
        traced: With the shapes of all values.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.graph = traced, traced.graph
        self.modules: dict[str, nn.Module] = dict(traced.named_modules())
        self.copies: dict[tuple[fx.Node, str], fx.Node] = {}

    def run(self) -> None:
        """Fuse what follows our layers, then choose layouts."""
        for node in list(self.graph.nodes):
            follower: fx.Node | None = node
            while follower is not None:
                follower = self._follow(follower)
        self._choose_layouts()
        self._replace_layers()
        self.graph.lint()
        self.traced.delete_all_unused_submodules()
        self.traced.recompile()

    def _layer(self, node: fx.Node) -> VectorBlockConv2d | None:
        layer = self.modules.get(str(node.target)) if node.op == "call_module" and len(node.args) == 1 else None
        return layer if isinstance(layer, VectorBlockConv2d) else None

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
        shapes = {_shape(value) for value in reader.all_input_nodes}
        return is_sum(reader, self.modules) and len(shapes) == 1 and len(_shape(node)) == 4

    def _choose_layouts(self) -> None:
        shapes = {node.name: _shape(node) for node in self.graph.nodes}
        nodes = list(self.graph.nodes)
        steps = [self._step(node) for node in nodes]
        layouts = choose_layouts(steps, lambda value, _vector: len(shapes[value]) == 4)
        for node, step in zip(nodes, steps, strict=True):
            if self._layer(node) is not None:
                ends = [value in layouts.blocked and value in step.either for value in (step.reads[0], node.name)]
                changes = {"layout_in": int(ends[0]), "layout_out": int(ends[1])}
                node.meta["changes"] = node.meta.get("changes", {}) | changes
            for value in node.all_input_nodes:
                copy = layouts.copy_for(step, value.name)
                if copy is not None:
                    node.replace_input_with(value, self._copy(value, copy, layouts))
        for node in nodes:
            pool = pool_of(node, self.modules)
            if pool is not None and node.name in layouts.blocked:
                self._block(node, pool)

    def _step(self, node: fx.Node) -> Step:
        """Describe a node; channels that do not fill their blocks are no obstacle here."""
        reads, writes, layer = tuple(value.name for value in node.all_input_nodes), (node.name,), self._layer(node)
        if layer is not None:
            images, residual = node.args[0], node.kwargs.get("residual")
            groups = layer.geometry.groups
            if groups == 1 or layer.geometry.out_channels // groups % layer.vector == 0:
                alike = (node.name, *([residual.name] if isinstance(residual, fx.Node) else []))
                return Step(reads, writes, alike, (node.name, reads[0]), layer.vector)
            return Step(reads, writes, (), () if images is residual else reads[:1], layer.vector)
        if pool_of(node, self.modules) is not None:
            # blocked pools are many times faster (measured), also behind other operators
            return Step(reads, writes, (*writes, *reads), writes)
        shapes = [_shape(value) for value in (node, *node.all_input_nodes)]
        # height and width may be broadcast
        fit = {len(shape) for shape in shapes} == {4} and len({shape[:2] for shape in shapes}) == 1
        return Step(reads, writes, (*writes, *reads) if fit and is_elementwise(node, self.modules) else ())

    def _copy(self, value: fx.Node, layout: str, layouts: Layouts) -> fx.Node:
        """Return a node that reorders a value, the same for all readers."""
        if (value, layout) not in self.copies:
            shape = _shape(value)
            module = ToBlocked(layouts.blocked[value.name]) if layout == "blocked" else ToPlanar(shape[1])
            with self.graph.inserting_after(value):
                self.copies[value, layout] = self.graph.call_module(
                    self._add(f"{value.name}_{layout}", module), (value,)
                )
        return self.copies[value, layout]

    def _block(self, node: fx.Node, pool: nn.Module) -> None:
        module = BlockedMaxPool2d(pool) if isinstance(pool, nn.MaxPool2d) else BlockedPool2d(pool)
        with self.graph.inserting_before(node):
            blocked = self.graph.call_module(self._add(f"{node.name}_blocked", module), (node.all_input_nodes[0],))
        node.replace_all_uses_with(blocked)
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
            self.traced.set_submodule(node.target, twin)

    def _add(self, name: str, module: nn.Module) -> str:
        """Add a module under a name that is not taken, and return that."""
        free, number = name, 0
        while free in self.modules or hasattr(self.traced, free):
            number += 1
            free = f"{name}_{number}"
        self.traced.add_submodule(free, module)
        self.modules[free] = module
        return free

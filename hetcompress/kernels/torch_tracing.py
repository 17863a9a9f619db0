"""A model traced by torch.fx, with the shapes of its values, ready to be rewritten."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, fx, nn

from hetcompress.errors import first_line
from hetcompress.kernels.pool_module import BlockedPool2d
from hetcompress.kernels.torch_nodes import changes_in_place, passes_through
from hetcompress.nn.lowered import Chain, Form

__all__ = ["UnfitError", "foreign_code", "shape_of", "traced"]


class UnfitError(Exception):
    """Why a model cannot be put together anew."""


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Turn whatever a model's own code raises under a tracer into `UnfitError`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  it may be anything
        raise UnfitError(first_line(error)) from None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep our layers, our pools and other forms whole."""
        return isinstance(m, Form | BlockedPool2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Look into chains: they pad in some other way than with zeros, and then run one of our layers."""
        if isinstance(m, Chain):
            return functools.reduce(lambda x, step: step(x), m.steps, *args)
        return super().call_module(m, forward, args, kwargs)


def traced(model: nn.Module, example: Float[Tensor, "n c h w"]) -> fx.GraphModule:
    """Return a model as a graph whose nodes know the shapes of their values; modules are shared.

    Raises:
        UnfitError: It cannot be traced, or a graph does not tell when what is read.
    """
    with foreign_code():
        graph = fx.GraphModule(model, _Tracer().trace(model), type(model).__name__).eval()
    _drop_identities(graph)
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if node.all_input_nodes and changes_in_place(node, modules) and len(node.all_input_nodes[0].users) > 1:
            raise UnfitError(f"{node} writes to what others read")
    with foreign_code():
        # a batch of 1 would look like a size that is broadcast
        _Shapes(graph).run(example.new_zeros(2, *example.shape[1:]))
    return graph


def _drop_identities(graph: fx.GraphModule) -> None:
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if passes_through(node, modules):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.graph.erase_node(node)


class _Shapes(fx.Interpreter):
    """Notes the shape of each tensor at its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a tensor; of what is none, that of a number."""
    shape: tuple[int, ...] = node.meta.get("shape", ())
    return shape

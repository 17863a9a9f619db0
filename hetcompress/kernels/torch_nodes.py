"""What nodes of a traced torch model do: which of them our operator can take in, and which work on blocked images."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

__all__ = ["changes_in_place", "is_elementwise", "is_sum", "limits_of", "passes_through", "pool_of"]

INF = math.inf
Limits = tuple[float, float]

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
ARITHMETIC = ADDITIONS | {
    operator.sub, operator.isub, torch.sub, "sub", "sub_", operator.mul, operator.imul, torch.mul, "mul", "mul_",
}  # fmt: skip
UNARY = {
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.GELU, nn.Tanh,
    nn.ELU, nn.Mish, nn.Softplus, F.relu, torch.relu, torch.relu_, F.relu6, F.hardtanh, F.leaky_relu, torch.sigmoid,
    F.sigmoid, F.hardsigmoid, F.hardswish, F.silu, F.gelu, torch.tanh, F.tanh, F.elu, F.mish, F.softplus, torch.clamp,
    "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "clamp", "clamp_",
}  # fmt: skip
"""Activations of one tensor, pixel by pixel: modules, functions and methods."""
RELUS = {nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"}
SIXES = {nn.ReLU6, F.relu6}
CLAMPS = {torch.clamp, "clamp", "clamp_", nn.Hardtanh, F.hardtanh}
POOLS: dict[Any, type[nn.Module]] = {
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}
IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}

Modules = Mapping[str, nn.Module]


def _kind(node: fx.Node, modules: Modules) -> Any:
    """Return what a node calls: the type of a module, a function, or the name of a method."""
    return type(modules[str(node.target)]) if node.op == "call_module" else node.target


def passes_through(node: fx.Node, modules: Modules) -> bool:
    """Tell whether a node returns what it reads."""
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.Identity | nn.Dropout | nn.Dropout2d)


def changes_in_place(node: fx.Node, modules: Modules) -> bool:
    """Tell whether a node writes to the first value that it reads."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    named = node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__")
    return named or node.target in IN_PLACE or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def is_sum(node: fx.Node, modules: Modules) -> bool:
    """Tell whether a node adds two different values, neither of them scaled."""
    return (
        _kind(node, modules) in ADDITIONS
        and len(node.args) == 2
        and len(node.all_input_nodes) == 2
        and "alpha" not in node.kwargs
    )


def is_elementwise(node: fx.Node, modules: Modules) -> bool:
    """Tell whether a node computes each number from those at its place alone."""
    kind = _kind(node, modules)
    return (kind in UNARY and len(node.all_input_nodes) == 1) or kind in ARITHMETIC


def limits_of(node: fx.Node, modules: Modules) -> Limits | None:
    """Return between which numbers, in ascending order, a node clamps what it reads; None if it does something else."""
    kind = _kind(node, modules)
    if kind in RELUS:
        return 0.0, INF
    if kind in SIXES:
        return 0.0, 6.0
    if kind not in CLAMPS:
        return None
    if node.op == "call_module":
        module = modules[str(node.target)]
        return float(module.min_val), float(module.max_val)  # type: ignore[arg-type]
    names, default = (("min_val", "max_val"), (-1.0, 1.0)) if kind is F.hardtanh else (("min", "max"), (-INF, INF))
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    ends = [end if given.get(name) is None else given[name] for name, end in zip(names, default, strict=True)]
    low, high = (float(end) if isinstance(end, int | float) else math.nan for end in ends)  # a tensor's is a node
    return (low, high) if low <= high else None  # our operator refuses others, and NaN


def pool_of(node: fx.Node, modules: Modules) -> nn.Module | None:
    """Return the pool over height and width that a node is; None if it is something else, or not for certain."""
    if node.op == "call_module":
        pool = modules[str(node.target)]
    elif node.target in POOLS and len(node.all_input_nodes) == 1:
        try:
            pool = POOLS[node.target](*node.args[1:], **{k: v for k, v in node.kwargs.items() if k != "input"})
        except TypeError:
            return None
    else:
        return None
    found = type(pool) in POOLS.values() and not getattr(pool, "return_indices", False)
    return pool if found else None

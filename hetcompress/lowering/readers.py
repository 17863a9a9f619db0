"""Who reads a tensor: found by running the model once, without tracing it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["Readers"]

NO_VALUES = {"__get__", "dim", "size", "numel", "stride", "is_contiguous", "is_floating_point", "__len__"}
"""Functions that look at a tensor's shape or type and read no values (attributes are read by `__get__`)."""


class Readers(TorchFunctionMode):
    """Counts how many functions read each watched tensor, and keeps the tensors alive so that ids stay theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}
        self.reads: dict[int, int] = {}

    def watch(self, tensor: Tensor) -> None:
        """Begin to count who reads this tensor."""
        self.watched[id(tensor)] = tensor
        self.reads[id(tensor)] = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in NO_VALUES:
            for leaf in tree_leaves((args, kwargs or {})):
                if isinstance(leaf, Tensor) and id(leaf) in self.watched:
                    self.reads[id(leaf)] += 1
        return func(*args, **(kwargs or {}))

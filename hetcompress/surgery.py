"""Finding and replacing modules; the only file that sets attributes of a user's model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

__all__ = ["copy_in", "copy_with", "named_modules_of", "replace_modules_"]

M = TypeVar("M", bound=nn.Module)


def named_modules_of(model: nn.Module, kind: type[M], *, exact: bool = False) -> dict[str, M]:
    """Return every module of class `kind` under its first name, in the order of registration.

    Args:
        model: The model to search.
        kind: The class.
        exact: Leave out subclasses.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if (type(module) is kind if exact else isinstance(module, kind))
    }


def copy_with(model: M, replacements: Mapping[str, nn.Module]) -> M:
    """Return a copy of a model with other modules in some places; the weights of what is replaced are never copied.

    Args:
        model: It is left alone.
        replacements: New module by old name, for every name by which a module is shared; they are used as they are.

    Returns:
        The copy, or the replacement of the model itself (name "").
    """
    return copy.deepcopy(model, {id(model.get_submodule(name)): new for name, new in replacements.items()})


def copy_in(model: M, dtype: torch.dtype) -> M:
    """Return a copy of a model with floating-point parameters and buffers of another type; no tensor is copied twice.

    Args:
        model: It is left alone.
        dtype: The type.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    new = {
        id(tensor): nn.Parameter(tensor.to(dtype, copy=True).detach(), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensor.to(dtype, copy=True)
        for tensor in tensors
    }
    return copy.deepcopy(model, new)


def replace_modules_(model: M, replacements: Mapping[str, nn.Module]) -> M:
    """Put each replacement where the module of that name stands, under every name by which it is shared.

    Args:
        model: Changed in place, unless the model itself (name "") is replaced.
        replacements: New module by old name.

    Returns:
        `model`, or the replacement of the model itself.
    """
    new_by_old = {id(model.get_submodule(name)): new for name, new in replacements.items()}
    # _modules and not named_children(), which shows a child that one parent holds twice only once
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001
            if child is not None and id(child) in new_by_old:
                parent.add_module(name, new_by_old[id(child)])
    return new_by_old.get(id(model), model)  # type: ignore[return-value]

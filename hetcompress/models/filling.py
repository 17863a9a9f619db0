"""Giving a model its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["fill_"]


def fill_(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load a state dict: copied into a model's own weights, or, on the meta device, as its weights.

    Tensors that a model has under several names stay one, and need to be given under one of them only.

    Args:
        model: Changed in place.
        tensors: By the names of the model's state dict.  A model on the meta device takes them over without a copy,
            and changes them when it is trained; counters of batch norms may be missing there, and become 0.

    Returns:
        Names that the model lacks weights for, and names that it has no place for.

    Raises:
        RuntimeError: A tensor has another shape.
    """
    first = _first_names(model)
    slots = model.state_dict()
    if any(slot.is_meta for slot in slots.values()):
        keys = model.load_state_dict(_own_memory(model, slots, tensors), strict=False, assign=True)
        _tie(model, first, tensors)
    else:
        keys = model.load_state_dict(tensors, strict=False)
    given = {first.get(name, name) for name in tensors}
    return [name for name in keys.missing_keys if first.get(name, name) not in given], list(keys.unexpected_keys)


def _own_memory(model: nn.Module, slots: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in the slots' types, no two in the same memory."""
    counters = {name: torch.zeros((), dtype=torch.int64) for name in slots if name.endswith("num_batches_tracked")}
    parameters = dict(model.named_parameters())
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in {**counters, **tensors}.items():
        plain = tensor.to(slots[name].dtype).contiguous() if name in slots else tensor
        # a copy of a buffer takes all that its memory holds, which may be a whole file
        shared = plain.data_ptr() in taken or (
            name not in parameters and plain.untyped_storage().nbytes() > plain.nbytes
        )
        own[name] = plain.clone() if shared else plain
        taken.add(own[name].data_ptr())
    return own


def _first_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of each tensor that has a name."""
    first: dict[int, str] = {}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in every}


def _tie(model: nn.Module, first: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Give all names of a tensor what one of them was given."""
    source = {first[name]: name for name in tensors if name in first}
    for name in first:
        given = source.get(first[name], name)
        if given != name:
            (place, _, leaf), (other, _, its_leaf) = name.rpartition("."), given.rpartition(".")
            setattr(model.get_submodule(place), leaf, getattr(model.get_submodule(other), its_leaf))

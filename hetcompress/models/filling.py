"""Giving a model its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["fill_"]


def fill_(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load a state dict: copied into a model's own weights, or, on the meta device, as its weights.

    Args:
        model: Changed in place.
        tensors: By the names of the model's state dict; those of a model on the meta device are used up.  Counters of
            batch norms may be missing there, and become 0.

    Returns:
        Names that the model lacks weights for, and names that it has no place for.

    Raises:
        RuntimeError: A tensor has another shape.
    """
    slots = model.state_dict()
    if not any(slot.is_meta for slot in slots.values()):
        keys = model.load_state_dict(tensors, strict=False)
        return keys.missing_keys, keys.unexpected_keys
    counters = {name: torch.zeros((), dtype=torch.int64) for name in slots if name.endswith("num_batches_tracked")}
    parameters = dict(model.named_parameters())
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in {**counters, **tensors}.items():
        plain = tensor.to(slots[name].dtype).contiguous() if name in slots else tensor
        # each its own memory; and a copy of a buffer takes all that its memory holds, which may be a whole file
        shared = plain.data_ptr() in taken or (
            name not in parameters and plain.untyped_storage().nbytes() > plain.nbytes
        )
        own[name] = plain.clone() if shared else plain
        taken.add(own[name].data_ptr())
    keys = model.load_state_dict(own, strict=False, assign=True)
    return keys.missing_keys, keys.unexpected_keys

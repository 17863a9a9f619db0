"""What a form is timed in.

A layer alone pays for changes of the memory layout at both ends that it does not pay inside a net, where its
neighbours speak the runtime's own layout; a form that begins with a gather pays them in the net as well.  So every form
is timed between two cheap convolutions,

    1x1, 16 -> C_in,  ReLU,  FORM,  ReLU,  1x1, C_out -> 16,

which cost all candidates of a layer the same.  They are the runtime's own, or our kernel's for what will stand between
layers that our kernel executes: those speak its layout, and spare each other the reorders between the two.
"""

from __future__ import annotations

import torch
from torch import nn

from hetcompress.kernels import VectorBlockConv2d
from hetcompress.nn.lowered import Chain

__all__ = ["OUTER_CHANNELS", "in_surroundings"]

OUTER_CHANNELS = 16
"""One channel block of the widest registers."""


@torch.no_grad()
def in_surroundings(form: nn.Module | None, in_channels: int, out_channels: int, vector: int | None = None) -> Chain:
    """Return a form between its two neighbours, which are the same for the same channel counts.

    Args:
        form: Of a layer; None for the neighbours alone.
        in_channels: That it reads.
        out_channels: That it makes.
        vector: Filters of a vector of our kernel, where that executes the neighbours; None for the runtime's own.
    """
    generator = torch.Generator().manual_seed(0)
    neighbours: list[nn.Module] = []
    for conv in (nn.Conv2d(OUTER_CHANNELS, in_channels, 1), nn.Conv2d(out_channels, OUTER_CHANNELS, 1)):
        assert conv.bias is not None
        conv.weight.normal_(0, 0.1, generator=generator)
        conv.bias.normal_(0, 0.1, generator=generator)
        neighbours.append(conv if vector is None else VectorBlockConv2d.from_pruned(conv, vector))
    before, after = neighbours
    return Chain([before, nn.ReLU(), *([] if form is None else [form, nn.ReLU()]), after])

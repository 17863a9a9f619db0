"""What a form is timed in.

A layer alone pays for changes of the memory layout at both ends that it does not pay inside a net, where its
neighbours speak the runtime's own layout; a form that begins with a gather pays them in the net as well.  So every form
is timed between two cheap convolutions,

    1x1, 16 -> C_in,  ReLU,  FORM,  ReLU,  1x1, C_out -> 16,

which cost all candidates of a layer the same.
"""

from __future__ import annotations

import torch
from torch import nn

from hetcompress.nn.lowered import Chain

__all__ = ["OUTER_CHANNELS", "in_surroundings"]

OUTER_CHANNELS = 16
"""One channel block of the widest registers."""


@torch.no_grad()
def in_surroundings(form: nn.Module, in_channels: int, out_channels: int) -> Chain:
    """Return a form between its two neighbours, which are the same for the same channel counts."""
    generator = torch.Generator().manual_seed(0)
    before = nn.Conv2d(OUTER_CHANNELS, in_channels, 1)
    after = nn.Conv2d(out_channels, OUTER_CHANNELS, 1)
    for conv in (before, after):
        assert conv.bias is not None
        conv.weight.normal_(0, 0.1, generator=generator)
        conv.bias.normal_(0, 0.1, generator=generator)
    return Chain([before, nn.ReLU(), form, nn.ReLU(), after])

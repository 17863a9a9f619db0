"""Blocks of kernels that share a shape."""

import pytest
import torch

from hetcompress.nn import ChannelGroups


@pytest.mark.parametrize(
    ("filters", "group_out", "expected"),
    [
        (16, 16, range(16)),  # one vector
        (40, 16, range(16)),
        (40, 8, range(8)),
        (40, 32, [3]),  # no vector of a kernel
        (16, "all", [3]),
        (40, 1, [3]),
    ],
)
def test_of_a_vector_all_filters_stay_or_none(filters, group_out, expected):
    alive = torch.zeros(filters, dtype=torch.bool)
    alive[3] = True
    stay = ChannelGroups(filters, 8, 1, group_out, 1).whole(alive)
    assert stay.nonzero().flatten().tolist() == list(expected)
    assert not ChannelGroups(filters, 8, 1, group_out, 1).whole(torch.zeros(filters, dtype=torch.bool)).any()

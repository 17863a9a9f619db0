"""What property-based tests draw from."""

import torch
from hypothesis import strategies as st
from torch import nn

from hetcompress.nn import HetConv2d, conv_arguments

SIZES = [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (2, 2), (5, 3)]


@st.composite
def pruned_layers(draw):
    """Pruned convolutions over the product of settings."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    stride = draw(st.sampled_from([1, 2]))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 6)), draw(st.sampled_from(SIZES)),
        stride=stride, padding=draw(st.sampled_from([0, 1, 2, "same" if stride == 1 else 0])),
        dilation=draw(st.sampled_from([1, 2])), groups=groups, bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "circular", "replicate"])),
    )  # fmt: skip
    group_out, group_in = (draw(st.sampled_from([1, 2, 4, "all"])) for _ in range(2))
    layer = HetConv2d(group_out, group_in, **conv_arguments(conv))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    shape = layer.kernel_shapes.shape
    shapes = torch.rand(shape) < draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
    kind = draw(st.sampled_from(["any", "row", "centre-or-full"]))
    if kind == "row":
        shapes[..., 1:, :] = False
    if kind == "centre-or-full":
        shapes = shapes[..., :1, :1].expand(shape).clone()
        shapes[..., shape[-2] // 2, shape[-1] // 2] = True
    return HetConv2d.from_conv2d(conv, shapes, group_out, group_in)

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


class Program(nn.Module):
    """Runs steps over images of one size; each reads earlier images by number, and the last image goes to a head."""

    def __init__(self, steps, head):
        super().__init__()
        self.reads = [reads for reads, _ in steps]
        self.calls = nn.ModuleList(call for _, call in steps)
        self.head = head

    def forward(self, x):
        images = [x]
        for reads, call in zip(self.reads, self.calls, strict=True):
            images.append(call(*(images[number] for number in reads)))
        return self.head(images[-1].mean((2, 3)))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *images):
        return self.function(*images)


UNARY = [
    nn.ReLU, lambda: nn.ReLU(inplace=True), nn.SiLU, nn.Hardswish, lambda: nn.MaxPool2d(3, 1, 1),
    lambda: nn.AvgPool2d(3, 1, 1), lambda: Call(lambda x: x.roll(1, 1)), lambda: Call(lambda x: x * 2 + 1),
]  # fmt: skip
BINARY = [torch.add, torch.mul, lambda a, b: torch.cat([a, b], 1)]


def masked(filters, channels, kind, **options):
    """A pruned convolution with empty filters, channels of few shapes, or sets of filters."""
    conv = nn.Conv2d(channels, filters, 3, **options)
    shapes = torch.zeros(filters, channels, 3, 3, dtype=torch.bool)
    of_channel = torch.randint(3, (channels,))
    if kind == "sets":  # HetConv's comb
        of_channel = 1 + (torch.arange(channels) - torch.arange(filters)[:, None]).remainder(2)
    shapes[..., 1, 1] = of_channel > 0
    shapes |= (of_channel == 2)[..., None, None]
    if kind == "filters":
        shapes[torch.rand(filters) < 0.5] = False
    return HetConv2d.from_conv2d(conv, shapes, 1, 1)


@st.composite
def small_nets(draw):
    """Nets with sums, concatenations, functions in place, unknown functions and several readers, 3 x 8 x 8 images."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    channels, steps = [3], []
    for _ in range(draw(st.integers(2, 9))):
        one = max(0, len(channels) - 1 - draw(st.sampled_from([0, 0, 0, 1, 2])))
        other = draw(st.integers(0, len(channels) - 1))
        what = draw(st.sampled_from(["conv", "conv", "conv", "depthwise", "norm", "unary", "binary", "binary"]))
        size = channels[one]
        if what == "conv":
            size = draw(st.sampled_from([4, 6]))
            kind = draw(st.sampled_from(["filters", "channels", "sets"]))
            mode = draw(st.sampled_from(["zeros", "zeros", "reflect"]))
            call = masked(size, channels[one], kind, padding=1, padding_mode=mode, bias=draw(st.booleans()))
        elif what == "depthwise":
            call = nn.Conv2d(size, size, 3, padding=1, groups=size)
        elif what == "norm":
            call = nn.BatchNorm2d(size)
            nn.init.normal_(call.running_mean), nn.init.normal_(call.weight), nn.init.normal_(call.bias)
        elif what == "unary":
            call = draw(st.sampled_from(UNARY))()
        else:
            function = draw(st.sampled_from(BINARY if channels[other] == size else BINARY[2:]))
            call = Call(function)
            size += channels[other] if function is BINARY[2] else 0
        steps.append(((one, other) if what == "binary" else (one,), call))
        channels.append(size)
    return Program(steps, nn.Linear(channels[-1], 3)).eval()

"""Random convolutions, and what torch makes of their masked weights."""

import dataclasses

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hetcompress.kernels import Geometry, blocked, pack, planar, unpack

INF = float("inf")


@dataclasses.dataclass
class Case:
    geometry: Geometry
    vector: int
    images: Tensor  # planar
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None  # planar

    def packed(self):
        return pack(self.weight, self.geometry.groups, self.vector)

    def inputs(self):
        """Return images and residual in the geometry's layouts; what fills blocks up must not matter."""
        images, residual = self.images, self.residual
        if self.geometry.layout_in:
            images = blocked(images, self.vector)
            spare = -self.geometry.in_channels % self.vector
            if spare:
                images[:, -1, :, :, self.vector - spare :] = float("nan")
        if residual is not None and self.geometry.layout_out:
            residual = blocked(residual, self.vector)
        return images, residual

    def planar(self, result):
        return planar(result, self.geometry.out_channels) if self.geometry.layout_out else result

    def expected(self):
        g = self.geometry
        top, left, bottom, right = g.padding
        images = F.pad(self.images, (left, right, top, bottom)).double()
        bias = None if self.bias is None else self.bias.double()
        result = F.conv2d(images, self.weight.double(), bias, g.stride, 0, g.dilation, g.groups)
        if self.residual is not None:
            result = result + self.residual
        return result.clamp(g.low, g.high)


def masked(weight, groups, vector, density, generator):
    """Return weights in which only so many vectors are left."""
    values, taps, starts = pack(weight, groups, vector)
    kept = torch.rand(len(values), 1, generator=generator) < density
    return unpack(values * kept, taps, starts, tuple(weight.shape), groups)


@st.composite
def cases(draw):
    """Every setting: groups, remainders, empty blocks, one-pixel images, batches of 0 and 1, both layouts."""
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    pair = lambda low, high: (number(low, high), number(low, high))  # noqa: E731
    vector, groups = draw(st.sampled_from((4, 8, 16))), draw(st.sampled_from((1, 1, 2, 3)))
    layout_in, layout_out = pair(0, 1)
    filters = vector * number(1, 2) if layout_out and groups > 1 else number(1, 40)
    channels = number(1, 20)
    kernel, stride, dilation = pair(1, 4), pair(1, 3), pair(1, 2)
    padding = (*pair(0, 3), *pair(0, 3))
    least = [
        max(1, (k - 1) * d + 1 - padding[i] - padding[i + 2])
        for i, (k, d) in enumerate(zip(kernel, dilation, strict=True))
    ]
    height, width = least[0] + number(0, 16), least[1] + number(0, 32)
    low, high = draw(st.sampled_from(((-INF, INF), (0.0, INF), (0.0, 1.0))))
    geometry = Geometry(
        channels * groups, filters * groups, groups, kernel, stride, padding, dilation, layout_in, layout_out, low, high
    )
    generator = torch.Generator().manual_seed(number(0, 2**31))
    batch = number(0, 5)
    weight = torch.randn(filters * groups, channels, *kernel, generator=generator) / (channels * kernel[0]) ** 0.5
    weight = masked(weight, groups, vector, draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))), generator)
    images = torch.randn(batch, channels * groups, height, width, generator=generator)
    bias = torch.randn(filters * groups, generator=generator) if draw(st.booleans()) else None
    case = Case(geometry, vector, images, weight, bias, None)
    if draw(st.booleans()):
        case.residual = torch.randn(case.expected().shape, generator=generator)
    return case

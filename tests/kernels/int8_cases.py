"""Random convolutions in 8 bits, and what exact integers make of them."""

import dataclasses

import torch
from hypothesis import strategies as st
from kernels.cases import INF, masked
from torch import Tensor
from torch.nn import functional as F

from hetcompress.kernels import Geometry, pack
from hetcompress.kernels.int8_library import Held, run_int8


@dataclasses.dataclass
class Int8Case:
    geometry: Geometry
    vector: int
    images: Tensor
    weight: Tensor  # integers of 8 bits, as doubles
    scales: Tensor
    held_in: Held
    held_out: Held | None
    bias: Tensor | None
    residual: Tensor | None
    held_residual: Held

    def run(self, **options):
        values, taps, starts = pack(self.weight, self.geometry.groups, self.vector)
        return run_int8(
            self.images, values.to(torch.int8), taps, starts, self.geometry, weight_scales=self.scales,
            held_in=self.held_in, held_out=self.held_out, bias=self.bias, residual=self.residual,
            held_residual=self.held_residual, **options,
        )  # fmt: skip

    def sums(self):
        """Return the exact sums: doubles hold them."""
        g = self.geometry
        top, left, bottom, right = g.padding
        images = F.pad(self.images.double() - self.held_in.zero, (left, right, top, bottom))
        bias = None if self.bias is None else self.bias.double()
        return F.conv2d(images, self.weight, bias, g.stride, 0, g.dilation, g.groups)

    def real(self):
        """Return the result before it is rounded."""
        result = self.sums() * self.held_in.scale * self.scales.double()[:, None, None]
        if self.residual is not None:
            result = result + (self.residual.double() - self.held_residual.zero) * self.held_residual.scale
        return result.clamp(self.geometry.low, self.geometry.high)


@st.composite
def int8_cases(draw):
    """Every setting: groups, remainders, empty blocks, one-pixel images, batches of 0, zeros, residuals, limits."""
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    pair = lambda low, high: (number(low, high), number(low, high))  # noqa: E731
    vector, groups = draw(st.sampled_from((4, 8, 16))), draw(st.sampled_from((1, 1, 2, 3)))
    filters, channels = number(1, 40), number(1, 20)
    kernel, stride, dilation, padding = pair(1, 4), pair(1, 3), pair(1, 3), (*pair(0, 3), *pair(0, 3))
    least = [
        max(1, (k - 1) * d + 1 - padding[i] - padding[i + 2])
        for i, (k, d) in enumerate(zip(kernel, dilation, strict=True))
    ]
    height, width = least[0] + number(0, 16), least[1] + number(0, 32)
    limits = draw(st.sampled_from(((-INF, INF), (0.0, INF), (0.0, 40.0))))
    geometry = Geometry(
        channels * groups, filters * groups, groups, kernel, stride, padding, dilation, low=limits[0], high=limits[1]
    )
    generator = torch.Generator().manual_seed(number(0, 2**31))
    integers = lambda low, high, *shape: torch.randint(low, high + 1, shape, generator=generator)  # noqa: E731
    weight = integers(-128, 127, filters * groups, channels, *kernel).double()
    weight = masked(weight, groups, vector, draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))), generator)
    images = integers(0, 255, number(0, 5), channels * groups, height, width).to(torch.uint8)
    bias = integers(-(2**16), 2**16, filters * groups).int() if draw(st.booleans()) else None
    scales = torch.rand(filters * groups, generator=generator) * 0.01 + 0.001
    held_in, held_residual = Held(0.05, number(0, 255)), Held(0.3, number(0, 255))
    held_out = Held(draw(st.sampled_from((0.5, 3.0))), number(0, 255)) if draw(st.booleans()) else None
    case = Int8Case(geometry, vector, images, weight, scales, held_in, held_out, bias, None, held_residual)
    if draw(st.booleans()):
        case.residual = integers(0, 255, *case.sums().shape).to(torch.uint8)
    return case

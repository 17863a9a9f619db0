"""Pooling in the compiled library against torch's: layouts, remainders, padding, rounding."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hetcompress.errors import UsageError
from hetcompress.kernels import Pooling, blocked, paths, planar, pool

pytestmark = pytest.mark.usefixtures("library")

MANY = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@st.composite
def poolings(draw):
    """Every setting, with images that the kernel fits."""
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    kernel = number(1, 5), number(1, 5)
    top, left = (number(0, k // 2) for k in kernel)  # torch pads both sides alike, and less
    layouts = number(0, 1), number(0, 1)
    pooling = Pooling(
        number(1, 40), draw(st.sampled_from((4, 8, 16))), kernel, (number(1, 3), number(1, 3)), (top, left, top, left),
        draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), *layouts,
    )  # fmt: skip
    height, width = (max(1, k - 2 * p) + number(0, 30) for k, p in zip(kernel, (top, left), strict=True))
    generator = torch.Generator().manual_seed(number(0, 2**31))
    images = torch.randn(number(0, 3), pooling.channels, height, width, generator=generator)
    return pooling, images


def expected(pooling, images):
    sizes = pooling.kernel_size, pooling.stride, pooling.padding[:2]
    if not len(images):
        return images.new_empty(pooling.shape(0, *pooling.output_size(*images.shape[2:]), of_output=True)[:4])
    if pooling.average:
        return F.avg_pool2d(images, *sizes, pooling.round_up, pooling.count_padding)
    return F.max_pool2d(images, *sizes, ceil_mode=pooling.round_up)


def in_layout(images, pooling):
    """Return images in the layout of the input; what fills blocks up must not matter."""
    if not pooling.layout_in:
        return images
    result = blocked(images, pooling.vector)
    spare = -pooling.channels % pooling.vector
    result[:, -1, :, :, pooling.vector - spare :] = float("nan") if spare else 0.0
    return result


@pytest.mark.parametrize("path", ["avx512", "avx2", "portable"])
@MANY
@given(case=poolings(), threads=st.integers(1, 4))
def test_equals_torch(path, case, threads):
    if path not in paths():
        pytest.skip(f"this processor does not run {path}")
    pooling, images = case
    result = pool(in_layout(images, pooling), pooling, threads=threads, path=path)
    if pooling.layout_out:
        result = planar(result, pooling.channels)
    if len(images):
        torch.testing.assert_close(result, expected(pooling, images), rtol=1e-5, atol=1e-6)
    else:
        assert result.shape[2:] == pooling.output_size(*images.shape[2:])


def test_large_images_in_several_tasks():
    for layout_in, layout_out in ((0, 1), (1, 0), (1, 1), (0, 0)):
        pooling = Pooling(20, 16, (3, 3), (2, 2), (1, 1, 1, 1), layout_in=layout_in, layout_out=layout_out)
        images = torch.randn(2, 20, 150, 130)
        result = pool(in_layout(images, pooling), pooling, threads=2)
        assert torch.equal(planar(result, 20) if layout_out else result, F.max_pool2d(images, 3, 2, 1))


def test_layouts_change_every_bit_pattern():
    images = torch.randn(2, 20, 7, 9)
    images[0, 3, 2], images[1, 5, :, 1], images[0, 0] = float("nan"), float("-inf"), -0.0
    there = pool(images, Pooling(20, 16, layout_out=1))
    back = pool(there, Pooling(20, 16, layout_in=1))
    assert torch.equal(back.view(torch.int32), images.view(torch.int32))


@pytest.mark.parametrize("nan", [0, 1, 3])
@pytest.mark.parametrize("average", [False, True])
def test_not_a_number_stays(nan, average):
    images = torch.zeros(1, 16, 2, 2)
    images.view(16, 4)[:, nan] = float("nan")
    assert pool(images, Pooling(16, 16, (2, 2), average=average)).isnan().all()


GOOD = Pooling(20, 16, (3, 3), (2, 2), (1, 1, 1, 1))


def refused(match, shape=(1, 20, 9, 9), dtype=torch.float32, path=None, **changes):
    with pytest.raises(UsageError, match=match):
        pool(torch.zeros(shape, dtype=dtype), dataclasses.replace(GOOD, **changes), path=path)


def test_malformed_calls_are_refused():
    refused("1 or more", vector=5)
    refused("1 or more", stride=(0, 1))
    refused("1 or more", kernel_size=(3, -1))
    refused("padding", padding=(3, 0, 0, 0))
    refused("padding", padding=(0, 0, 0, -1))
    refused("channels", shape=(1, 19, 9, 9))
    refused("layout", shape=(1, 2, 9, 9, 16))
    refused("layout", dtype=torch.float64)
    refused("channels", shape=(1, 2, 9, 9, 8), layout_in=1)
    refused("blocked_out", layout_out=2)
    refused("in_height", shape=(1, 20, 0, 9))
    refused("smaller than the kernel|out_height", shape=(1, 20, 2, 9), padding=(0, 0, 0, 0))
    refused("path", path="avx1024")

"""The kernel in 8 bits against exact integers."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.cases import INF, masked
from kernels.int8_cases import Int8Case, int8_cases

from hetcompress.errors import UsageError
from hetcompress.kernels import Geometry, pack
from hetcompress.kernels.int8_library import Held, int8_paths, quantise_filters, run_int8

pytestmark = pytest.mark.usefixtures("library")

PATHS = ["avx512vnni", "avx2", "portable"]
MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def skip_unless(path):
    if path not in int8_paths():
        pytest.skip(f"this processor does not run {path}")


@pytest.mark.parametrize("path", PATHS)
@MANY
@given(case=int8_cases(), threads=st.integers(1, 4))
def test_rounds_the_exact_result(path, case, threads):
    skip_unless(path)
    result, real = case.run(path=path, threads=threads), case.real()
    assert result.shape == real.shape
    if case.held_out is None:
        torch.testing.assert_close(result.double(), real, rtol=1e-5, atol=1e-4)
        return
    steps = (real / case.held_out.scale + case.held_out.zero).clamp(0, 255)
    # either neighbour is right where the scaled sum lies between them but for float32
    assert (result.double() - steps).abs().max() <= 0.5 + 1e-3 if result.numel() else True


@pytest.mark.parametrize("path", PATHS)
@MANY
@given(case=int8_cases())
def test_sums_are_exact(path, case):
    skip_unless(path)
    geometry = dataclasses.replace(case.geometry, low=-INF, high=INF)
    scales, one = torch.ones_like(case.scales), Held(1.0, case.held_in.zero)
    case = dataclasses.replace(
        case, geometry=geometry, scales=scales, held_in=one, held_out=None, residual=None, bias=None
    )
    # float32 holds what a few hundred taps of 16 bits add up to
    assert torch.equal(case.run(path=path).double(), case.sums())


def case_of(shape, filters, geometry, density=0.3):
    generator = torch.Generator().manual_seed(0)
    geometry = dataclasses.replace(geometry, in_channels=shape[1], out_channels=filters)
    weight = torch.randint(-128, 128, (filters, shape[1], *geometry.kernel_size), generator=generator).double()
    images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    held_out, scales = Held(40.0, 100), torch.full((filters,), 0.02)
    weight = masked(weight, 1, 16, density, generator)
    return Int8Case(geometry, 16, images, weight, scales, Held(1.0, 3), held_out, None, None, Held())


SAME = Geometry(0, 0, kernel_size=(3, 3), padding=(1, 1, 1, 1))


@pytest.mark.parametrize("geometry", [SAME, Geometry(0, 0), dataclasses.replace(SAME, stride=(2, 2))])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (57, 61), (4, 4), (2, 2), (7, 7)])
def test_every_tile_and_strip(size, geometry):
    for batch in (1, 9):
        case = case_of((batch, 64, *size), 40, geometry)
        exact = dataclasses.replace(case, held_out=None, scales=torch.ones(40))
        assert torch.equal(exact.run(threads=2).double(), exact.sums())
        steps = (case.real() / case.held_out.scale + case.held_out.zero).clamp(0, 255)
        assert (case.run(threads=2).double() - steps).abs().max() <= 0.5 + 1e-3


def test_strips_of_rows():
    case = dataclasses.replace(case_of((1, 256, 70, 70), 16, SAME, 0.02), held_out=None, scales=torch.ones(16))
    assert torch.equal(case.run(threads=2).double(), case.sums())


@pytest.mark.parametrize("path", PATHS)
def test_extreme_numbers_do_not_saturate(path):
    skip_unless(path)
    case = case_of((1, 64, 5, 5), 16, SAME, 1.0)
    case = dataclasses.replace(case, held_out=None, scales=torch.ones(16), held_in=Held(1.0, 0))
    case.images[:] = 255
    for extreme in (-128.0, 127.0):
        case.weight[:] = extreme
        assert torch.equal(case.run(path=path).double(), case.sums())


@pytest.mark.parametrize("path", PATHS)
def test_halves_are_rounded_to_even(path):
    skip_unless(path)
    weight = torch.eye(16).double()[:, :, None, None]
    images = torch.arange(0, 256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 16, 1, 1)
    case = Int8Case(
        Geometry(16, 16), 16, images, weight, torch.ones(16), Held(1.0, 0), Held(2.0, 5), None, None, Held()
    )
    expected = ((images.float() / 2).round() + 5).clamp(0, 255).to(torch.uint8)
    assert torch.equal(case.run(path=path), expected)


def test_threads_do_not_change_a_bit():
    case = case_of((5, 64, 30, 30), 64, SAME)
    one = case.run(threads=1)
    for threads in (2, 3, 16):
        assert torch.equal(case.run(threads=threads), one)


def test_filters_are_held_within_half_a_step():
    conv = torch.randn(2 * 21, 5, 3, 3) * torch.rand(42, 1, 1, 1)
    values, _, starts = pack(conv, 2, 16)
    held, scales = quantise_filters(values, starts, 42, 2)
    torch.testing.assert_close(scales, conv.flatten(1).abs().amax(1) / 127)
    assert held.abs().amax() == 127
    block = torch.arange(len(starts) - 1).repeat_interleave(starts.diff())
    of_lane = torch.nn.functional.pad(scales.reshape(2, 21), (0, 11), value=1.0).reshape(-1, 16)
    assert ((held * of_lane[block] - values).abs() <= of_lane[block] * 0.5001).all()


GOOD = case_of((1, 20, 5, 5), 24, SAME)


def refused(match, **changes):
    values, taps, starts = pack(GOOD.weight, 1, 16)
    arguments = {
        "images": GOOD.images, "values": values.to(torch.int8), "taps": taps, "starts": starts,
        "geometry": GOOD.geometry, "weight_scales": GOOD.scales, "held_in": GOOD.held_in, "held_out": GOOD.held_out,
    }  # fmt: skip
    with pytest.raises(UsageError, match=match):
        run_int8(**(arguments | changes))


def test_malformed_calls_are_refused():
    _, taps, starts = pack(GOOD.weight, 1, 16)
    other = lambda **changes: dataclasses.replace(GOOD.geometry, **changes)  # noqa: E731
    refused("taps", taps=taps + 20 * 9)
    refused("taps", taps=taps - 20 * 9)
    refused("one tap for each", taps=taps[:-1])
    refused("starts", starts=starts + 1)
    refused("starts", starts=starts.flip(0))
    refused("vector", values=torch.zeros(len(taps), 5, dtype=torch.int8))
    refused("images", images=GOOD.images.float())
    refused("channels", images=torch.zeros(1, 19, 5, 5, dtype=torch.uint8))
    refused("planar", geometry=other(layout_in=1))
    refused("planar|groups", geometry=other(layout_out=1))
    refused("smaller than the kernel", geometry=other(kernel_size=(9, 3)))
    refused("padding", geometry=other(padding=(-1, 0, 0, 0)))
    refused("blocks", geometry=other(out_channels=33), weight_scales=torch.ones(33))
    refused("weight scales", weight_scales=torch.ones(25))
    refused("weight_scales", weight_scales=torch.zeros(24))
    refused("weight_scales", weight_scales=torch.full((24,), float("nan")))
    refused("biases", bias=torch.zeros(25, dtype=torch.int32))
    refused("residual", residual=torch.zeros(1, 24, 5, 4, dtype=torch.uint8))
    refused("path", path="avx1024")
    refused("ascending", geometry=other(low=float("nan")))


@pytest.mark.parametrize(("scale", "zero"), [(0.0, 0), (-1.0, 0), (INF, 0), (float("nan"), 0), (1.0, 256), (1.0, -1)])
def test_numbers_that_hold_nothing_are_refused(scale, zero):
    with pytest.raises(UsageError, match="scale"):
        Held(scale, zero)

"""The compiled kernel against torch's convolution of the masked weights."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.cases import Case, cases, masked

from hetcompress.errors import UsageError
from hetcompress.kernels import Geometry, best_path, blocked, library_path, paths, run
from hetcompress.kernels.build import BuildError, build

pytestmark = pytest.mark.usefixtures("library")

MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def assert_right(case, **options):
    images, residual = case.inputs()
    result = case.planar(run(images, *case.packed(), case.geometry, bias=case.bias, residual=residual, **options))
    expected = case.expected()
    assert result.shape == expected.shape
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["avx512", "avx2", "portable"])
@MANY
@given(case=cases(), threads=st.integers(1, 4))
def test_equals_torch(path, case, threads):
    if path not in paths():
        pytest.skip(f"this processor does not run {path}")
    assert_right(case, path=path, threads=threads)


@pytest.mark.parametrize("named", ["portable", "avx1024", None])
def test_the_environment_names_the_instruction_set(named):
    best = f"ctypes.CDLL({str(library_path())!r}).hetc_best_path"
    code = f"import ctypes; best = {best}; best.restype = ctypes.c_char_p; print(best())"
    environment = os.environ | ({"HETCOMPRESS_KERNEL_PATH": named} if named else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == repr((named if named == "portable" else best_path()).encode())


def test_an_instruction_set_that_is_none_is_said():
    code = "from hetcompress.kernels import available; print(available()[1])"
    environment = os.environ | {"HETCOMPRESS_KERNEL_PATH": "avx1024"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert "names 'avx1024', and not one of" in done.stdout
    assert "portable: name one of them, or unset it" in done.stdout


def case_of(shape, filters, geometry, density=0.3, vector=16):
    generator = torch.Generator().manual_seed(0)
    geometry = dataclasses.replace(geometry, in_channels=shape[1], out_channels=filters)
    weight = torch.randn(filters, shape[1] // geometry.groups, *geometry.kernel_size, generator=generator) / 10
    weight = masked(weight, geometry.groups, vector, density, generator)
    return Case(geometry, vector, torch.randn(shape, generator=generator), weight, torch.randn(filters), None)


SAME = Geometry(0, 0, kernel_size=(3, 3), padding=(1, 1, 1, 1))


@pytest.mark.parametrize("vector", [8, 16])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (57, 61), (4, 4), (7, 7), (8, 8)])
def test_every_tile_and_strip(size, layout, vector):
    geometry = dataclasses.replace(SAME, layout_in=layout, layout_out=layout)
    for batch in (1, 9):
        assert_right(case_of((batch, 64, *size), 40, geometry, vector=vector), threads=2)


def test_many_weights():
    assert_right(case_of((3, 512, 4, 4), 512, SAME, density=1.0))


def test_not_a_number_stays():
    case = case_of((1, 16, 8, 8), 16, dataclasses.replace(SAME, low=0.0))
    case.images[:] = float("nan")
    assert run(case.images, *case.packed(), case.geometry).isnan().any()


def test_threads_do_not_change_a_bit():
    case = case_of((5, 64, 30, 30), 64, SAME)
    one = run(case.images, *case.packed(), case.geometry, threads=1)
    for threads in (2, 3, 16):
        assert torch.equal(run(case.images, *case.packed(), case.geometry, threads=threads), one)


GOOD = case_of((1, 20, 5, 5), 24, SAME)


def refused(match, images=None, values=None, taps=None, starts=None, residual=None, bias=None, path=None, **changes):
    packed = [
        given if given is not None else mine for given, mine in zip((values, taps, starts), GOOD.packed(), strict=True)
    ]

    def call():
        geometry = dataclasses.replace(GOOD.geometry, **changes)
        run(GOOD.images if images is None else images, *packed, geometry, bias=bias, residual=residual, path=path)

    with pytest.raises(UsageError, match=match):
        call()


def test_malformed_calls_are_refused():
    values, taps, starts = GOOD.packed()
    big = torch.iinfo(torch.int32).max
    refused("taps", taps=taps + 20 * 9)
    refused("taps", taps=taps - 20 * 9)
    refused("one for each", taps=taps[:-1])
    refused("int32 taps", taps=taps.long())
    refused("starts", starts=starts + 1)
    refused("starts", starts=starts.flip(0))
    refused("starts", starts=torch.tensor([0, big, len(taps)], dtype=torch.int32))
    refused("starts", starts=torch.tensor([0, -5, len(taps)], dtype=torch.int32))
    refused("blocks", starts=starts[:1])
    refused("vector", values=torch.zeros(len(taps), 5))
    refused("float32", values=values.double())
    refused("channels", images=torch.zeros(1, 19, 5, 5))
    refused("channels", images=torch.zeros(1, 20, 5, 5, 16))
    refused("channels", layout_in=1)
    refused("layout|blocked_in", layout_in=2)
    refused("stride", stride=(1, 0))
    refused("stride", stride=(1, -1))
    refused("dilation", dilation=(1, 0))
    refused("padding", padding=(-1, 0, 0, 0))
    refused("kernel", kernel_size=(0, 3))
    refused("smaller than the kernel", kernel_size=(9, 3))
    refused("groups", groups=3)
    refused("blocks", out_channels=33)
    refused("biases", bias=torch.zeros(25))
    refused("ascending", low=2.0, high=1.0)
    refused("ascending", low=float("nan"))
    refused("residual", residual=torch.zeros(1, 24, 5, 4))
    refused("path", path="avx1024")
    refused("two groups", groups=2, layout_out=1, out_channels=24, values=values)


def test_blocked_round_trip():
    images = torch.randn(2, 20, 3, 5)
    assert torch.equal(blocked(images, 8).movedim(-1, 2).flatten(1, 2)[:, :20], images)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_no_thread_is_added_to_those_of_torch():
    code = """
import os, torch
from hetcompress.kernels import VectorBlockConv2d, library_path
torch.set_num_threads(3)
torch.nn.functional.conv2d(torch.ones(3, 16, 64, 64), torch.ones(16, 16, 3, 3))
before = len(os.listdir("/proc/self/task"))
conv = torch.nn.Conv2d(16, 64, 3, padding=1)
layer, images = VectorBlockConv2d.from_pruned(conv, 16), torch.randn(6, 16, 32, 32)
with torch.no_grad():
    expected = layer(images).numpy().tobytes()
    assert torch.allclose(layer(images), conv(images), atol=1e-5)
print(len(os.listdir("/proc/self/task")) - before)
child = os.fork()
if child == 0:  # OpenMP's threads are not there: operators of torch would wait for them for ever
    with torch.no_grad():
        os._exit(0 if layer(images).numpy().tobytes() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "0"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_open_the_library_itself():
    code = """
import os, torch
from hetcompress.kernels import VectorBlockConv2d
torch.set_num_threads(3)
layer = VectorBlockConv2d.from_pruned(torch.nn.Conv2d(16, 64, 3, padding=1), 16)
images = torch.ones(6, 16, 32, 32)
torch.nn.functional.conv2d(torch.ones(3, 16, 64, 64), torch.ones(16, 16, 3, 3))
child = os.fork()
if child == 0:
    with torch.no_grad():
        os._exit(0 if layer(images).shape == (6, 64, 32, 32) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0"], done.stderr


def test_without_a_compiler_nothing_is_built(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler: found neither c\+\+, g\+\+ nor clang\+\+"):
        build(tmp_path / "library.so")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(BuildError, match="CXX names /no/such/compiler, which is not there"):
        build(tmp_path / "library.so")
    refusing = tmp_path / "refusing"
    refusing.write_text("#!/bin/sh\necho 'x.cpp:1: error: no vector types here' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("CXX", str(refusing))
    with pytest.raises(BuildError, match="error: no vector types here"):
        build(tmp_path / "library.so")
    assert not (tmp_path / "library.so").exists()

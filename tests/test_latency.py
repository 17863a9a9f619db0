import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hetcompress import comparisons, latency
from hetcompress.comparisons import SAME, Comparison, Latency
from hetcompress.errors import UsageError
from hetcompress.graphs import onnx_bytes
from hetcompress.latency import compare, compare_latency, measure, torch_threads
from hetcompress.machine import machine


def sleeper(milliseconds: float) -> Callable[[], object]:
    return lambda: time.sleep(milliseconds / 1e3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], object]:
    """A clock that only moves when a runner says so; returns the function that moves it, in milliseconds."""
    now = 0.0

    def advance(milliseconds: float) -> None:
        nonlocal now
        now += milliseconds / 1e3

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now)
    return advance


def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers).train()


def test_sleeps_give_their_ratio() -> None:
    found = compare(sleeper(6), sleeper(2), batch=4, threads=1, runtime="sleep", seconds=0.1)
    assert 2 < found.ratio < 3.5  # a sleep takes longer than asked, more so on a busy machine
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert found.verdict == "faster"
    assert 6 <= found.dense.median_ms < 12
    assert 2 <= found.compact.median_ms < 6
    assert found.dense.p05_ms <= found.dense.median_ms <= found.dense.p95_ms
    assert (found.dense.runs, found.dense.batch, found.dense.threads) == (found.compact.runs, 4, 1)


def test_times_are_exact_on_an_exact_clock(clock: Callable[[float], object]) -> None:
    found = compare(lambda: clock(9), lambda: clock(6), batch=1, threads=1, runtime="fake", min_rounds=20, seconds=0.0)
    assert (found.ratio, found.ratio_low, found.ratio_high) == pytest.approx((1.5, 1.5, 1.5))
    times = (found.dense.median_ms, found.dense.p05_ms, found.dense.p95_ms)
    assert times == pytest.approx((9, 9, 9))
    assert found.dense.runs == 20
    assert compare(
        lambda: clock(6), lambda: clock(9), batch=1, threads=1, runtime="fake", seconds=0.0
    ).verdict == "slower"  # fmt: skip


def test_rounds_are_interleaved_in_changing_order(clock: Callable[[float], object]) -> None:
    calls: list[str] = []

    def runner(name: str) -> Callable[[], object]:
        return lambda: (calls.append(name), clock(2))

    samples = measure({name: runner(name) for name in "abc"}, seconds=0.0, warmup=2, min_rounds=30)
    rounds = [
        "".join(calls[start : start + 3]) for start in range(3 * 5, len(calls), 3)
    ]  # after warm-up and calibration
    assert len(rounds) == 30
    assert all(sorted(each) == list("abc") for each in rounds)
    assert len(set(rounds)) > 3
    assert [len(times) for times in samples.values()] == [30, 30, 30]
    assert list(samples) == list("abc")


def test_a_slow_phase_of_the_machine_does_not_change_the_ratio(clock: Callable[[float], object]) -> None:
    calls = 0

    def runner(milliseconds: float) -> Callable[[], object]:
        def run() -> None:
            nonlocal calls
            calls += 1
            clock(milliseconds * (3 if calls > 40 else 1))  # something else starts to run

        return run

    found = compare(runner(4), runner(2), batch=1, threads=1, runtime="fake", min_rounds=31, seconds=0.0)
    assert found.ratio == pytest.approx(2)
    assert found.dense.p95_ms == pytest.approx(12)
    assert found.dense.p05_ms == pytest.approx(4)


def test_quick_calls_are_repeated_inside_a_sample(clock: Callable[[float], object]) -> None:
    calls = {"quick": 0, "slow": 0}

    def runner(name: str, milliseconds: float) -> Callable[[], object]:
        def run() -> None:
            calls[name] += 1
            clock(milliseconds)

        return run

    samples = measure({"quick": runner("quick", 0.01), "slow": runner("slow", 5)}, seconds=0.0, warmup=0, min_rounds=4)
    assert calls["slow"] == 3 + 4
    assert calls["quick"] == pytest.approx(3 + 4 * 100, abs=8)
    assert samples["quick"] == pytest.approx([0.01] * 4)
    assert samples["slow"] == pytest.approx([5] * 4)


def test_rounds_go_on_for_the_time_asked(clock: Callable[[float], object]) -> None:
    samples = measure({"a": lambda: clock(10)}, seconds=1.0, min_rounds=2)
    assert 99 <= len(samples["a"]) <= 101


def test_equal_runners_on_a_noisy_machine_are_the_same(clock: Callable[[float], object]) -> None:
    noise = random.Random(0)
    verdicts = [
        compare(
            lambda: clock(noise.lognormvariate(1, 0.3)), lambda: clock(noise.lognormvariate(1, 0.3)),
            batch=1, threads=1, runtime="fake", seconds=0.0, min_rounds=31,
        ).verdict
        for _ in range(100)
    ]  # fmt: skip
    assert verdicts.count("faster") + verdicts.count("slower") <= 10


def test_a_noisy_machine_is_measured_for_longer(clock: Callable[[float], object]) -> None:
    noise = random.Random(0)

    def run(spread: float) -> Comparison:
        return compare(
            lambda: clock(2 * noise.lognormvariate(1, spread)), lambda: clock(noise.lognormvariate(1, spread)),
            batch=1, threads=1, runtime="fake", seconds=0.0, min_rounds=15,
        )  # fmt: skip

    quiet, middling, wild = run(0.001), run(0.15), run(2.0)
    assert quiet.steady
    assert quiet.dense.runs == 15, "one look is enough"
    assert middling.steady
    assert 15 < middling.dense.runs <= 60
    assert not wild.steady
    assert wild.dense.runs == wild.compact.runs == 60, "it ends"


def test_the_interval_holds_the_true_median_in_nine_of_ten_cases() -> None:
    noise = random.Random(0)
    for n in (15, 60, 301):
        hits = 0
        for _ in range(500):
            low, high = comparisons._median_interval([noise.expovariate(1) for _ in range(n)])
            hits += low <= 0.693147 <= high
        assert 0.88 * 500 <= hits < 500, n  # and it is no interval that always holds


def of(ratio: float, low: float, high: float) -> Comparison:
    one = Latency(1.0, 1.0, 1.0, 1, 1, 1, "fake")
    return Comparison(one, one, ratio, low, high)


@pytest.mark.parametrize(
    ("comparison", "verdict"),
    [
        (of(2.0, 1.8, 2.2), "faster"),
        (of(2.0, 0.9, 2.2), "unclear, too noisy"),
        (of(1.01, 1.005, 1.015), "the same within noise"),
        (of(0.5, 0.4, 0.6), "slower"),
        (of(0.9, 0.7, 1.1), "unclear, too noisy"),
        (of(1.03, 0.99, 1.07), "the same within noise"),
        (of(1.1, 1 + SAME + 0.001, 1.2), "faster"),
        (of(0.99, 0.985, 0.995), "the same within noise"),
    ],
)
def test_a_verdict_must_be_beyond_noise(comparison: Comparison, verdict: str) -> None:
    assert comparison.verdict == verdict == comparison.to_json()["verdict"]


def test_medians_that_contradict_the_rounds_are_known() -> None:
    slow, fast = (Latency(ms, ms, ms, 1, 1, 1, "fake") for ms in (8.5, 2.7))
    assert Comparison(slow, fast, 1.8, 1.75, 1.9).disturbed
    assert not Comparison(slow, fast, 3.0, 2.9, 3.1).disturbed


def test_models_are_compared_in_both_runtimes_at_each_batch_size(capfd: pytest.CaptureFixture[str]) -> None:
    dense, compact = net(48), net(2)
    before = torch.get_num_threads()
    found = compare_latency(dense, compact, (3, 20, 20), batches=(1, 3), threads=1, seconds=0.05)
    assert torch.get_num_threads() == before
    assert dense.training
    assert compact.training
    assert [(each.dense.runtime.split(",")[0], each.dense.batch) for each in found] == [
        ("onnxruntime", 1), ("onnxruntime", 3), ("torch", 1), ("torch", 3),
    ]  # fmt: skip
    assert all(each.dense.threads == 1 and each.ratio > 1 for each in found)
    assert all(each.verdict != "slower" for each in found)
    assert capfd.readouterr() == ("", "")


def test_files_are_compared_in_onnxruntime_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(net(4), torch.zeros(1, 3, 8, 8)))
    found = compare_latency(path, path, (3, 8, 8), batches=(2,), runtimes=("onnxruntime",), seconds=0.05)
    assert [each.dense.runtime for each in found] == ["onnxruntime"]
    with pytest.raises(UsageError, match=r"runtime torch for .*model\.onnx.*name onnxruntime alone"):
        compare_latency(path, path, (3, 8, 8), runtimes=("torch",))
    with pytest.raises(UsageError, match="runtime: expected one of onnxruntime, torch, found 'tensorrt'"):
        compare_latency(path, path, (3, 8, 8), runtimes=("tensorrt",))


def test_threads_are_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == before


def test_the_machine_is_described() -> None:
    found = machine()
    assert found.cpu
    assert found.cores >= 1
    assert found.torch == torch.__version__.split("+")[0]
    assert set(found.to_json()) == {field.name for field in dataclasses.fields(found)}
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        assert all(flag in cpu_info.read_text() for flag in found.flags)
        assert found.cpu.partition(" (family")[0] in cpu_info.read_text()

"""``hetcompress bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from hetcompress.cli.options import Arch, Json, Run, key_values, within_cores

if TYPE_CHECKING:
    from hetcompress.benchmarking import Timing
    from hetcompress.pipeline import Bench, Profile

__all__ = ["bench", "print_timings"]


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="ONNX files of any origin, checkpoints, .pt2 programs, or the words dense and lowered for the models "
            "of the run folder. The first is the reference.",
            show_default=False,
        ),
    ],
    run: Run = Path("hetrun"),
    batch: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option("--batch", "-b", min=1, help="Batch size; may be repeated [1 and 16, or a file's own]."),
    ] = None,
    threads: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            "--threads", min=1, help="Threads inside an operator; may be repeated [1].", callback=within_cores
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time to spend on each model at each setting.")] = 1.0,
    runtime: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="onnxruntime or torch [torch for .pt2, else onnxruntime]."),
    ] = None,
    input_size: Annotated[
        Optional[tuple[int, int, int]],  # noqa: UP045
        typer.Option(metavar="C H W", help="Sizes of the input after the batch, where a file leaves them open."),
    ] = None,
    arch: Arch = None,
    arch_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--arch-arg", metavar="NAME=VALUE", help="Keyword argument of a checkpoint's factory."),
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Open .pt2 programs and pickles. Only for files you made.")
    ] = False,
    operators: Annotated[
        bool,
        typer.Option(
            "--operators", help="Also show where the time goes: onnxruntime's own profile, by kind of operator."
        ),
    ] = False,
    json_out: Json = False,
) -> None:
    """Time any models side by side, in interleaved rounds, against the first."""
    from hetcompress import pipeline
    from hetcompress.cli import console
    from hetcompress.cli.progress import activity

    with activity():
        result = pipeline.bench(
            models, run, batches=batch, threads=threads or [1], seconds=seconds, runtime=runtime,
            input_size=input_size or None, arch=arch, arch_arguments=key_values("--arch-arg", arch_arg or []),
            trust_pickle=trust_pickle, operators=operators, announce=console.note,
        )  # fmt: skip
    for note in result.notes:
        console.warn(note)
    if json_out:
        console.print_json({"command": "bench", "result": result.to_json()})
    else:
        _print(result)


def _print(result: Bench) -> None:
    from hetcompress.cli import console

    rows = [
        [item.name, item.runtime, "x".join(map(str, item.input)), console.count(item.bytes)] for item in result.items
    ]
    console.say(console.table("Models", ["model", "runtime", "input", "bytes"], rows))
    print_timings(result.timings, result.machine.summary)
    settings = list(dict.fromkeys((profile.batch, profile.threads) for profile in result.profiles))
    for setting in settings:
        _print_operators([one for one in result.profiles if (one.batch, one.threads) == setting], result.timings)


def _print_operators(profiles: Sequence[Profile], timings: Sequence[Timing]) -> None:
    """Print the operators of several models beside each other, those that take most time anywhere first."""
    from hetcompress.cli import console

    times = [{kind.operator: kind for kind in profile.operators} for profile in profiles]
    kinds = sorted(
        {kind for model in times for kind in model},
        key=lambda kind: -max(model[kind].milliseconds for model in times if kind in model),
    )
    rows = [
        [kind, *(f"{m[kind].milliseconds:.3g} ({m[kind].calls})" if kind in m else "" for m in times)]
        for kind in kinds
    ]  # fmt: skip
    rows.append(["all", *(f"{sum(kind.milliseconds for kind in model.values()):.3g}" for model in times)])
    medians = {(timing.name, timing.latency.batch, timing.latency.threads): timing.latency for timing in timings}
    latencies = (medians[profile.name, profile.batch, profile.threads] for profile in profiles)
    rows.append(["without profiling", *(console.milliseconds(latency.median_ms) for latency in latencies)])
    title = f"Operators in onnxruntime, ms (calls), batch {profiles[0].batch}, threads {profiles[0].threads}"
    console.say(console.table(title, ["operator", *(profile.name for profile in profiles)], rows))


def print_timings(timings: tuple[Timing, ...], machine: str) -> None:
    """Print latencies of several models, each against the first."""
    from hetcompress.cli import console

    rows = [
        [
            timing.name, timing.latency.runtime, str(timing.latency.batch), str(timing.latency.threads),
            *map(console.milliseconds, (timing.latency.median_ms, timing.latency.p05_ms, timing.latency.p95_ms)),
            "1" if timing.verdict == "reference"
            else f"{timing.ratio:.2f} ({timing.ratio_low:.2f} to {timing.ratio_high:.2f})",
            timing.verdict,
        ]
        for timing in timings
    ]  # fmt: skip
    columns = ["model", "runtime", "batch", "threads", "median ms", "5 %", "95 %", "time ratio", ""]
    brief = [
        f"{timing.name} in {timing.latency.runtime}, batch {timing.latency.batch}, threads {timing.latency.threads}: "
        f"{console.milliseconds(timing.latency.median_ms)} ms, time ratio {timing.ratio:.2f}, {timing.verdict}"
        for timing in timings
    ]
    console.say(console.table(f"Latency, {machine}", columns, rows, numbers_from=2), brief=brief)

"""Options that several commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hetcompress.errors import InputError, UsageError

if TYPE_CHECKING:
    from hetcompress.planning import PlanSettings

__all__ = [
    "Arch",
    "Batch",
    "Data",
    "DataRoot",
    "Download",
    "Json",
    "Kernels",
    "KernelsByTime",
    "KernelsOnTheWay",
    "KernelsOrNot",
    "LatencyRatio",
    "OneBatch",
    "Place",
    "Plan",
    "Run",
    "Target",
    "TargetAsAimed",
    "TargetOfFiles",
    "Threads",
    "ThreadsAsAimed",
    "group_size",
    "key_values",
    "place_of",
    "plan_settings",
    "within_cores",
]

MOST_THREADS = 16


def within_cores(value: Any) -> Any:
    """Refuse so many threads for a processor that they would wait for each other without an end; warn of some.

    Args:
        value: A number of threads, several, or none.

    Raises:
        UsageError: There are too many.
    """
    most = max([0, *value] if isinstance(value, (list, tuple)) else [value or 0])
    if most <= 1:
        return value
    from hetcompress.cli import console
    from hetcompress.machine import machine

    cores = machine().cores
    if most > MOST_THREADS * cores:
        raise UsageError(
            "--threads", expected=f"at most {MOST_THREADS} for each of the {cores} processors here", found=str(most),
            fix=f"--threads {cores} uses all of them",
        )  # fmt: skip
    if most > cores:
        console.warn(f"{most} threads share the {cores} processors here: such times say little of {most} processors")
    return value


# typer reads Optional[...] on every supported Python
Run = Annotated[Path, typer.Option("--run", envvar="HETCOMPRESS_RUN", help="The run folder.", metavar="DIR")]
Arch = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--arch",
        envvar="HETCOMPRESS_ARCH",
        metavar="SPEC",
        help="What builds the model: hetcompress:resnet20, torchvision:resnet34, timm:NAME, path/file.py:factory or "
        "pkg.mod:factory.",
    ),
]
Data = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--data", metavar="NAME", help="cifar10, cifar100, digits or imagefolder."),
]
DataRoot = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--data-root", "--data-dir", "--data-path", metavar="DIR", help="Its folder [HETCOMPRESS_DATA, then ./data]."
    ),
]
Plan = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--plan",
        metavar="HOW",
        help="How the form of each layer is chosen: measured (the fastest on this machine at the first --batch; dense "
        "where none is faster), fast (the same among fewer forms) or macs (the fewest MACs, however long they take) "
        "[fast; measured with --kernels].",
    ),
]
Target = Annotated[
    str, typer.Option("--target", metavar="RUNTIME", help="Where time is measured: ort-cpu, torch-cpu or torch-cuda.")
]
TargetOfFiles = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--target",
        metavar="RUNTIME",
        help="Where time is measured: ort-cpu [for an ONNX file], torch-cpu [for others] or torch-cuda.",
    ),
]
Kernels = Annotated[
    bool,
    typer.Option(
        "--kernels/--no-kernels",
        help="Let layers run in the project's own kernel; an ONNX file then needs its library registered.",
    ),
]
KernelsByTime = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--kernels/--no-kernels",
        help="Of granularity auto: count on the project's own kernel, or not. [where it was compiled]",
        show_default=False,
    ),
]
KernelsOnTheWay = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--kernels/--no-kernels",
        help="Let layers run in the project's own kernel where time is measured, or not. [where filters differ in "
        "their shapes]",
        show_default=False,
    ),
]
KernelsOrNot = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--kernels/--no-kernels",
        help="Let layers run in the project's own kernel, or not; an ONNX file then needs its library registered. "
        "[as in a target of time that was reached; else where stock operators show less than 0.7 of the MAC ratio and "
        "the kernel is a quarter faster]",
        show_default=False,
    ),
]
Batch = Annotated[
    Optional[list[int]],  # noqa: UP045
    typer.Option(
        "--batch",
        "-b",
        min=1,
        metavar="N",
        help="Batch size for latency; may be repeated [1 and 16, that of a target of time before them].",
    ),
]
ThreadsAsAimed = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Threads for latency [those of a target of time, else 1].",
        callback=within_cores,
    ),
]
TargetAsAimed = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--target",
        metavar="RUNTIME",
        help="Where time is measured: ort-cpu, torch-cpu or torch-cuda [that of a target of time, else ort-cpu].",
    ),
]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="Threads for latency.", callback=within_cores)]
LatencyRatio = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--latency-ratio",
        help="Target: dense over compressed time of the whole model, as measured on --target, at --batch images and "
        "with --threads.",
    ),
]
OneBatch = Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Images at once, where time is measured.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data if it is not there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]


def group_size(option: str, text: str | None) -> int | Any:
    """Read a channel-group size: a number, "all", or nothing.

    Raises:
        UsageError: It is something else.
    """
    if text is None or text == "all":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            option, expected="a number of at least 1, or 'all'", found=f"'{text}'", fix=f"for example {option} 16"
        )
    return int(text)


def key_values(option: str, texts: list[str]) -> dict[str, Any]:
    """Read ``name=value`` options; a value is read as JSON where it is JSON, and is text otherwise.

    Raises:
        UsageError: There is no equals sign.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(
                option, expected="name=value", found=f"'{text}'", fix=f"for example {option} num_classes=10"
            )
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


@dataclasses.dataclass(frozen=True)
class Place:
    """Where time is measured.

    Attributes:
        batches: Images at once; plans are made for the first.
        threads: Threads inside an operator.
        target: The runtime.
    """

    batches: list[int]
    threads: int
    target: str


def place_of(run: Path, batch: list[int] | None, threads: int | None, target: str | None) -> Place:
    """Return where to measure a run: as asked, else where its target of time was reached, else as ever.

    Args:
        run: The run folder.
        batch: What was asked for, or None.
        threads: Likewise.
        target: Likewise.
    """
    from hetcompress import pipeline
    from hetcompress.cli import console

    aimed = None
    with contextlib.suppress(InputError):  # told by the command, after what is wrong with its options
        aimed = pipeline.aimed_at(run)
    if aimed is None:
        return Place(batch or [1, 16], threads or 1, target or "ort-cpu")
    if target is None:
        try:
            target = dataclasses.replace(aimed, kernels=None).require_runtime().target
        except UsageError as error:
            target = "ort-cpu"
            console.warn(f"the target of time was reached elsewhere, and time is measured on {target} here: {error}")
    batches = [aimed.batch, *(count for count in (1, 16) if count != aimed.batch)]
    return Place(batch or batches, threads or aimed.threads, target)


def plan_settings(plan: str | None, target: str, batch: int, threads: int, *, kernels: bool | None) -> PlanSettings:
    """Return how forms are chosen: in shorter looks unless our kernel was asked for.

    Raises:
        UsageError: There is no such plan, no such runtime here, or no kernel.
    """
    from hetcompress.planning import PlanSettings

    return PlanSettings(plan or ("measured" if kernels else "fast"), target, batch, threads, kernels).require_runtime()

"""``hetcompress report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hetcompress.cli.options import (
    Arch,
    Batch,
    Json,
    KernelsOrNot,
    Plan,
    Run,
    TargetAsAimed,
    ThreadsAsAimed,
    place_of,
    plan_settings,
)

if TYPE_CHECKING:
    from hetcompress.comparisons import Comparison, Latency
    from hetcompress.pipeline import Report

__all__ = ["print_report", "report", "say_of_kernels"]


def report(
    run: Run = Path("hetrun"),
    plan: Plan = None,
    target: TargetAsAimed = None,
    kernels: KernelsOrNot = None,
    batch: Batch = None,
    threads: ThreadsAsAimed = None,
    seconds: Annotated[float, typer.Option(help="Time to spend on each latency comparison; 0 skips it.")] = 2.0,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Count only.")] = False,
    csv: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Also write one row for each layer here."),
    ] = None,
    arch: Arch = None,
    json_out: Json = False,
) -> None:
    """Compare the compressed model with its dense source: MACs, parameters, bytes, accuracy, latency, shapes."""
    from hetcompress import pipeline
    from hetcompress.cli import console
    from hetcompress.cli.progress import activity
    from hetcompress.files import check_writable, write_text
    from hetcompress.latency import RUNTIMES

    if csv is not None:
        check_writable(csv)
    place = place_of(run, batch, threads, target)
    with activity():
        result = pipeline.report(
            run, arch=arch, plan=plan_settings(plan, place.target, place.batches[0], place.threads, kernels=kernels),
            batches=place.batches, threads=place.threads, runtimes=() if no_latency else RUNTIMES, seconds=seconds,
        )  # fmt: skip
    if csv is not None:
        write_text(csv, result.to_csv())
    for text in filter(None, (result.plan["note"], *result.complaints)):
        console.warn(text)
    if json_out:
        console.print_json({"command": "report", "result": result.to_json()})
    else:
        print_report(result)
        written = [f"{run / 'report' / 'report.json'} and layers.csv", *([] if csv is None else [str(csv)])]
        console.result(f"written: {', '.join(written)}")
        say_of_kernels(result.latency, result.plan, kernels=kernels)


def print_report(result: Report) -> None:
    """Print the tables of a report."""
    from hetcompress.cli import console

    rows = [
        [
            layer.name, layer.form, f"{layer.density:.3f}", console.millions(layer.macs_dense),
            console.millions(layer.macs_effective), console.millions(layer.macs_executed), _shapes(layer.shapes),
        ]
        for layer in result.layers
    ]  # fmt: skip
    columns = ["layer", "form", "density", "MACs dense", "effective", "executed", "kernel shapes"]
    console.say(console.table("Layers", columns, rows, numbers_from=2))
    print_plan(result.plan, "report/report.json")
    print_totals(result)
    if result.latency:
        print_latency(result.latency, result.machine.summary)


def print_plan(plan: dict[str, Any], file: str) -> None:
    """Print how the forms of layers were chosen, and which file of the run folder has the rest."""
    from hetcompress.cli import console
    from hetcompress.planning import PlanSettings

    forms = ", ".join(f"{count} {form}" for form, count in plan["forms"].items())
    console.say(f"plan by {PlanSettings.from_json(plan)}: {forms}; why the other forms lost stands in {file}")


def _shapes(shapes: dict[str, int]) -> str:
    """Summarise a histogram; the CSV and JSON have all of it."""
    if not shapes:
        return ""
    commonest, kernels = next(iter(shapes.items()))
    words = "1 shape" if len(shapes) == 1 else f"{len(shapes)} shapes"
    return f"{words}, {kernels / sum(shapes.values()):.0%} are {commonest}"


def print_totals(result: Report) -> None:
    """Print the totals of a report."""
    from hetcompress.cli import console

    sizes = result.bytes

    def bytes_row(name: str, kind: str) -> list[str]:
        before, after = sizes[f"dense {kind}"], sizes[f"compact {kind}"]
        return [name, console.count(before), console.count(after), f"{before / after:.3f}"]

    def macs_row(name: str, after: int) -> list[str]:
        return [name, console.millions(result.macs_dense), console.millions(after), f"{result.macs_dense / after:.3f}"]

    before, after = result.parameters_dense, result.parameters
    rows = [
        ["parameters", console.count(before), console.count(after), f"{before / after:.3f}"],
        macs_row("MACs effective", result.macs_effective),
        macs_row("MACs executed", result.macs_executed),
        bytes_row("weights, bytes", "weights"),
        bytes_row("ONNX, bytes", "onnx"),
        ["source file, bytes", console.count(sizes["source file"]), "", ""],
    ]
    size = "x".join(str(n) for n in result.input_size)
    title = f"{result.architecture}, one image of {size}, density {result.density:.4f}"
    brief = [f"{row[0]}: ratio {row[3]}" for row in rows[:3]]
    console.say(console.table(title, ["", "dense", "compressed", "ratio"], rows), brief=brief)
    if result.accuracies:
        note = f" ({result.test_note})" if result.test_note else ""
        rows = [[when, f"{percent:.2f} %"] for when, percent in result.accuracies.items()]
        console.say(console.table(f"Accuracy{note}", ["", "top-1"], rows))
    else:
        console.say("accuracy: not measured yet; `finetune`, or `export --data NAME`, measures it")
    if result.uncounted:
        listed = ", ".join(f"{name} ({times})" for name, times in result.uncounted.items())
        console.say(f"operators without a MAC count: {listed}")
    console.say(f"lowered against pruned model: largest difference {result.max_difference:.2g}")


def print_latency(comparisons: tuple[Comparison, ...], machine: str) -> None:
    """Print latencies, dense against compressed."""
    from hetcompress.cli import console

    rows = []
    for item in comparisons:
        both = [_spread(latency) for latency in (item.dense, item.compact)]
        interval = f"{item.ratio:.2f} ({item.ratio_low:.2f} to {item.ratio_high:.2f})"
        rows.append(
            [item.compact.runtime, str(item.compact.batch), str(item.compact.threads), *both, interval, item.verdict]
        )
    columns = ["runtime", "batch", "threads", "dense ms", "compressed ms", "time ratio", ""]
    brief = [f"{row[0]}, batch {row[1]}: time ratio {row[5]}, {row[6]}" for row in rows]
    console.say(console.table(f"Latency, median (5 % to 95 %), {machine}", columns, rows), brief=brief)
    if any(item.disturbed for item in comparisons):
        console.say(
            "the machine is busy: a time ratio, the median of rounds that ran both models, is not that of the medians "
            "beside it; measure again when it is quiet"
        )


def say_of_kernels(latency: tuple[Comparison, ...], plan: dict[str, Any], *, kernels: bool | None) -> None:
    """Say what may help where something is not faster, if it was not tried and can be tried here."""
    from hetcompress.cli import console
    from hetcompress.kernels import available

    untried = kernels is None and plan["plan"] == "macs"
    if any(item.verdict != "faster" for item in latency) and untried and available()[0]:
        console.say("to try: without --plan macs forms are chosen by time, and our kernel is among them where it pays")


def _spread(latency: Latency) -> str:
    from hetcompress.cli import console

    median, low, high = map(console.milliseconds, (latency.median_ms, latency.p05_ms, latency.p95_ms))
    return f"{median} ({low} to {high})"

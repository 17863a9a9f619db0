"""``hetcompress export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from hetcompress.cli.options import (
    Arch,
    Batch,
    Data,
    DataRoot,
    Download,
    Json,
    KernelsOrNot,
    Plan,
    Run,
    TargetOfFiles,
    ThreadsAsAimed,
    place_of,
    plan_settings,
)

if TYPE_CHECKING:
    from hetcompress.pipeline import ExportReport, Int8Report

__all__ = ["export", "print_export", "warn_of"]


def export(
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX, run and verified in onnxruntime.")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="torch.export program.")] = False,
    safetensors: Annotated[bool, typer.Option("--safetensors", help="Compact weights.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Beside the ONNX file also one in int8, calibrated on training images.")
    ] = False,
    int8_drop: Annotated[
        float, typer.Option("--int8-drop", metavar="POINTS", help="Accuracy that int8 may cost; else layers stay fp32.")
    ] = 0.3,
    int8_images: Annotated[int, typer.Option("--int8-images", help="Training images for calibration.")] = 512,
    run: Run = Path("hetrun"),
    plan: Plan = None,
    target: TargetOfFiles = None,
    kernels: KernelsOrNot = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the files [export/ in the run folder]."),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    batch: Batch = None,
    threads: ThreadsAsAimed = None,
    seconds: Annotated[float, typer.Option(help="Time to spend on each latency comparison; 0 skips it.")] = 2.0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when not smaller or not faster.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files in --out.")] = False,
    arch: Arch = None,
    json_out: Json = False,
) -> None:
    """Write the compressed model, verify what was written, and compare it with the dense one."""
    from hetcompress import pipeline
    from hetcompress.cli import console
    from hetcompress.cli.data import data_settings
    from hetcompress.cli.progress import activity
    from hetcompress.cli.report import say_of_kernels

    wanted = [name for name, chosen in (("onnx", onnx), ("pt2", pt2), ("safetensors", safetensors)) if chosen]
    settings = data_settings(data, data_root, download=download) if data is not None else None
    quantised = pipeline.Int8Settings(int8_drop, int8_images) if int8 else None
    place = place_of(run, batch, threads, target or pipeline.planned_in(wanted))
    with activity():
        result = pipeline.export(
            wanted, run, out=out, data=settings, int8=quantised, arch=arch,
            plan=plan_settings(plan, place.target, place.batches[0], place.threads, kernels=kernels),
            batches=place.batches, threads=place.threads, seconds=seconds, strict=strict, force=force,
        )  # fmt: skip
    warn_of(result)
    if json_out:
        console.print_json({"command": "export", "result": result.to_json()})
        return
    print_export(result)
    if onnx:
        say_of_kernels(result.latency, result.plan, kernels=kernels)
    say_of_library(result, kernels=kernels)
    if out is None:
        say_of_others(result, run)


def warn_of(result: ExportReport) -> None:
    """Print what is not as it was hoped for."""
    from hetcompress.cli import console

    for text in filter(None, (result.plan["note"], result.untrained, *result.complaints)):
        console.warn(text)


def print_export(result: ExportReport) -> None:
    """Print what was exported."""
    from hetcompress.cli import console
    from hetcompress.cli.report import print_latency, print_plan

    rows = [
        [
            str(file.path), console.count(result.source_bytes), console.count(result.dense_bytes[file.target]),
            console.count(file.bytes), f"{file.max_difference:.2g}", f"{file.argmax_agreement:.2%}",
        ]
        for file in result.files
    ]  # fmt: skip
    columns = ["file", "source bytes", "dense bytes", "bytes", "max difference", "same class"]
    console.say(console.table("Exported and verified", columns, rows))
    print_plan(result.plan, "plan.json")
    note = f" ({result.test_note})" if result.test_note else ""
    for when, accuracy in result.accuracies.items():
        console.say(f"accuracy {when}: {accuracy.percent:.2f} %{note}")
    if result.latency:
        print_latency(result.latency, result.machine.summary)
    if result.int8 is not None:
        _print_int8(result.int8, result.machine.summary)
    for file in result.files:
        details = ", ".join(f"{name} {value}" for name, value in file.details.items() if value)
        console.result(f"verified: {file.path} ({details})")


def say_of_others(result: ExportReport, run: Path) -> None:
    """Say which files beside the new ones are of an earlier export."""
    from hetcompress.cli import console
    from hetcompress.run_files import is_own

    new = {file.path.name for file in result.files}
    there = [path for path in (run / "export").iterdir() if is_own(path) and not path.name.startswith(".")]
    old = sorted(path.name for path in there if path.name not in new)
    if old:
        console.warn(
            f"beside them, of an earlier export and perhaps in other forms than plan.json says: {', '.join(old)}"
        )


def say_of_library(result: ExportReport, *, kernels: bool | None) -> None:
    """Say what files with layers in our kernel need."""
    from hetcompress.cli import console

    left_out = "" if kernels else " (--no-kernels writes stock operators only, which are slower for these shapes)"
    ours = result.plan["forms"].get("vector-block")
    for file in result.files:
        needs = ""
        if "register_custom_ops_library" in file.details:
            needs = "options.register_custom_ops_library(str(hetcompress.kernels.library_path())) before it is opened"
        elif ours and file.target == "pt2":
            needs = "import hetcompress.kernels before torch.export.load"
        if needs:
            console.say(f"{file.path.name} has layers in our kernel: {needs}{left_out}")


def _print_int8(report: Int8Report, machine: str) -> None:
    from hetcompress.cli import console
    from hetcompress.cli.bench import print_timings

    if report.timings:
        print_timings(report.timings, machine)
    kernels = report.kernels
    convolutions = kernels.int8_convolutions + kernels.fp32_convolutions
    console.say(
        f"int8: {kernels.int8_convolutions} of {convolutions} convolutions run in int8 kernels here; "
        f"accuracy {report.accuracy.percent:.2f} %, fp32 {report.fp32.percent:.2f} %; "
        f"ranges from {report.calibration_images} training images"
    )
    if report.fp32_layers:
        console.say(f"left in fp32 for accuracy: {', '.join(report.fp32_layers)}")

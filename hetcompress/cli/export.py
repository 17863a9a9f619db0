"""``hetcompress export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from hetcompress.cli.options import Arch, Batch, Data, DataRoot, Json, Plan, Run, Target, Threads

if TYPE_CHECKING:
    from hetcompress.pipeline import ExportReport

__all__ = ["export", "print_export"]


def export(
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX, run and verified in onnxruntime.")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="torch.export program.")] = False,
    safetensors: Annotated[bool, typer.Option("--safetensors", help="Compact weights.")] = False,
    run: Run = Path("hetrun"),
    plan: Plan = "macs",
    target: Target = "ort-cpu",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the files [export/ in the run folder]."),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    batch: Batch = None,
    threads: Threads = 1,
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

    wanted = [name for name, chosen in (("onnx", onnx), ("pt2", pt2), ("safetensors", safetensors)) if chosen]
    settings = data_settings(data, data_root) if data is not None else None
    result = pipeline.export(
        wanted, run, out=out, data=settings, arch=arch, plan=plan, target=target,
        batches=batch or [1, 16], threads=threads, seconds=seconds,        strict=strict, force=force,
    )  # fmt: skip
    if json_out:
        console.print_json({"command": "export", "result": result.to_json()})
    else:
        print_export(result)


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
    console.out.print(console.table("Exported and verified", columns, rows))
    print_plan(result.plan)
    note = f" ({result.test_note})" if result.test_note else ""
    for when, accuracy in result.accuracies.items():
        console.out.print(f"accuracy {when}: {accuracy.percent:.2f} %{note}")
    if result.latency:
        print_latency(result.latency, result.machine.summary)
    for complaint in result.complaints:
        console.out.print(f"NOTE: {complaint}")
    for file in result.files:
        details = ", ".join(f"{name} {value}" for name, value in file.details.items())
        console.out.print(f"verified: {file.path} ({details})")

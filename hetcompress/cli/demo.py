"""``hetcompress demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["demo"]


def demo(
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", metavar="DIR", help="A new folder for the results [a temporary one]."),
    ] = None,
) -> None:
    """Show the whole pipeline offline, in about a minute, on real handwritten digits."""
    from hetcompress.cli import console

    console.note("the whole pipeline on handwritten digits, about a minute")  # before torch takes its seconds to import
    from hetcompress.checkpointing import InterruptedRunError
    from hetcompress.cli.export import print_export, warn_of
    from hetcompress.cli.progress import TrainingProgress
    from hetcompress.cli.report import print_report
    from hetcompress.pipeline import demo as run_demo

    folder = out or Path(tempfile.mkdtemp(prefix="hetcompress-demo-"))
    try:
        with TrainingProgress() as progress:
            result = run_demo(
                folder,
                reporter=progress.restarted,
                announce=lambda text: console.note(f"\n$ {text}" if text.startswith("hetcompress") else text),
            )
    except InterruptedRunError as error:
        error.args = (f"stopped; what there is by now lies in {folder}",)  # of several commands, none can go on
        raise
    warn_of(result.exported)
    print_report(result.report)
    print_export(result.exported)
    dense, final = result.dense.percent, result.exported.accuracies["after export"].percent
    ratio = result.report.mac_ratio_executed
    console.say("")
    console.result(f"dense {dense:.2f} %, compressed {final:.2f} % at an executed MAC ratio of {ratio:.2f}")
    console.result(f"verified ONNX file: {result.exported.files[0].path}")

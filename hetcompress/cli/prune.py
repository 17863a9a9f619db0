"""``hetcompress prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from hetcompress.cli.options import (
    Arch,
    Json,
    KernelsOnTheWay,
    LatencyRatio,
    OneBatch,
    Run,
    Target,
    Threads,
    plan_settings,
)

__all__ = ["prune"]


def prune(
    run: Run = Path("hetrun"),
    density: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Target: kept over all weights of the converted layers."),
    ] = None,
    mac_ratio: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Target: dense over kept MACs of the whole model; with --density, the harder one decides."),
    ] = None,
    latency_ratio: LatencyRatio = None,
    target: Target = "ort-cpu",
    batch: OneBatch = 1,
    threads: Threads = 1,
    kernels: KernelsOnTheWay = None,
    random: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="SEED", help="Choose shapes at random, for experiments."),
    ] = None,
    evenly: Annotated[bool, typer.Option("--evenly", help="Keep the same share of every layer.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace what was trained.")] = False,
    arch: Arch = None,
    json_out: Json = False,
) -> None:
    """Fix the shapes by the magnitude of the weights, without training.

    Accuracy suffers; `hetcompress finetune --stage fine` trains what is left.
    """
    from hetcompress import pipeline
    from hetcompress.cli import console
    from hetcompress.cli.progress import activity
    from hetcompress.cli.pruned import say_what_stays, say_which_decided
    from hetcompress.run_files import MADE, run_option

    made = [run / name / file for name, files in MADE.items() for file in files if (run / name / file).exists()]
    with activity():
        result = pipeline.prune(
            run, density=density, mac_ratio=mac_ratio, latency_ratio=latency_ratio,
            plan=plan_settings("fast", target, batch, threads, kernels=kernels), arch=arch, random=random,
            evenly=evenly, force=force, announce=console.note,
        )  # fmt: skip
    say_which_decided(density, mac_ratio, result)
    if json_out:
        console.print_json({"command": "prune", "result": result})
        return
    console.result(f"density {result.density:.4f}, MAC ratio {result.mac_ratio:.3f} (effective)")
    if result.time is not None:
        console.result(str(result.time))
    if not evenly:
        say_what_stays(density, mac_ratio, result)
    if gone := sorted({f"{path.parent.name}/" for path in made if not path.exists()}):
        console.say(f"removed, since they were made of the earlier shapes: {', '.join(gone)}")
    command = f"hetcompress finetune --stage fine --data NAME{run_option(run)}"
    console.say(f"not trained: run `{command}` to recover accuracy")

"""``hetcompress convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hetcompress.cli.options import (
    Arch,
    Json,
    KernelsByTime,
    OneBatch,
    Run,
    Target,
    Threads,
    group_size,
    key_values,
    plan_settings,
)
from hetcompress.cli.recipes import FromRecipe, recorded

if TYPE_CHECKING:
    from hetcompress.conversion import LayerPlan

__all__ = ["convert"]


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A state dict: .pt, .pth, .th, .bin or .safetensors.")],
    recipe: FromRecipe = None,
    run: Run = Path("hetrun"),
    arch: Arch = None,
    arch_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--arch-arg", metavar="NAME=VALUE", help="Keyword argument of the factory; may be repeated."),
    ] = None,
    family: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Shape family: free, rigid, centre, whole, sets or hetconv [free]."),
    ] = None,
    family_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--family-arg", metavar="NAME=VALUE", help="Argument of the family, such as parts=4."),
    ] = None,
    group_out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|all", help="Filters that share a shape [free: 16, hetconv: 1, else all]."),
    ] = None,
    group_in: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|all", help="Input channels that share a shape [1]."),
    ] = None,
    granularity: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="NAME",
            help="In place of family and groups: vector or vector8 (any taps for a channel and 16 or 8 filters), sets "
            "(a learned HetConv), channels (shared by all filters), whole (kernels full or empty, for all filters), or "
            "auto (for each layer, by time measured on --target).",
        ),
    ] = None,
    target: Target = "ort-cpu",
    batch: OneBatch = 1,
    threads: Threads = 1,
    kernels: KernelsByTime = None,
    include: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="PATTERN", help="Convert only these layers (shell pattern); may be repeated."),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="PATTERN", help="Leave these layers dense; may be repeated."),
    ] = None,
    input_size: Annotated[
        Optional[tuple[int, int, int]],  # noqa: UP045
        typer.Option(metavar="C H W", help="Image size, where the architecture does not say."),
    ] = None,
    mean: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="A,B,C", help="Mean of the normalisation, one number for each channel."),
    ] = None,
    std: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="A,B,C", help="Standard deviation of the normalisation."),
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged weights of the checkpoint.")] = False,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Open a pickle that can run code. Only for files you made.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    json_out: Json = False,
) -> None:
    """Load a checkpoint and make its convolutions learn the shapes of their kernels.

    Proves that the converted model computes the same function and writes the run folder.
    """
    from hetcompress import pipeline
    from hetcompress.cli import console
    from hetcompress.cli.progress import activity

    settings: dict[str, Any] = {
        "arch": arch, "arch_arguments": key_values("--arch-arg", arch_arg or []), "family": family,
        "family_arguments": key_values("--family-arg", family_arg or []),
        "group_out": group_size("--group-out", group_out), "group_in": group_size("--group-in", group_in),
        "include": include or [], "exclude": exclude or [], "input_size": input_size or None,
        "mean": _numbers("--mean", mean), "std": _numbers("--std", std), "trust_pickle": trust_pickle, "ema": ema,
        "granularity": granularity,
    }  # fmt: skip
    plan = plan_settings("fast", target, batch, threads, kernels=kernels)
    with activity():
        result = pipeline.convert(
            checkpoint, run=run, plan=plan, force=force, dry_run=dry_run, recipe=recorded(recipe), **settings
        )
    for note in result.notes:
        console.warn(note)
    if json_out:
        console.print_json({"command": "convert", "result": result})
        return
    rows = [[layer.name, layer.kind, _what_happens(layer, result.granularities)] for layer in result.layers]
    console.say(console.table("", ["layer", "kind", ""], rows, numbers_from=3))
    if result.timed is not None:
        ours = "with our kernel (--no-kernels: without)" if result.timed.kernels else "without our kernel"
        console.say(f"granularities by what is kept at half of the time on {result.timed.target}, {ours}")
    converted = sum(layer.converted for layer in result.layers)
    console.result(
        f"{result.architecture}: {converted} of {len(result.layers)} convolutions converted, with "
        f"{result.convertible_macs / result.dense_macs:.1%} of {console.millions(result.dense_macs)} MACs "
        f"for an image of {' x '.join(map(str, result.input_size))}"
    )
    note = "" if result.exact else f"; {family} is a fixed pattern and changes the function until it is fine-tuned"
    console.say(f"largest difference to the source's outputs: {result.max_difference:g}{note}")
    if result.run is not None:
        console.result(f"run folder: {result.run}")


def _what_happens(layer: LayerPlan, granularities: dict[str, str]) -> str:
    if not layer.converted:
        return f"stays dense: {layer.reason}"
    return f"converted: {granularities[layer.name]}" if layer.name in granularities else "converted"


def _numbers(option: str, text: str | None) -> list[float] | None:
    from hetcompress.errors import UsageError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            option, expected="numbers separated by commas", found=f"'{text}'", fix=f"for example {option} 0.5,0.5,0.5"
        ) from None

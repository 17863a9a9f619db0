"""``hetcompress list``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from hetcompress.cli.options import Json
from hetcompress.errors import UsageError
from hetcompress.registry import suggestion

__all__ = ["list_all"]


def list_all(
    kind: Annotated[
        Optional[str],  # noqa: UP045  typer reads Optional[...] on every supported Python
        typer.Argument(help="One of the kinds alone, such as recipes; one name in a line.", show_default=False),
    ] = None,
    json_out: Json = False,
) -> None:
    """List everything that can be chosen by name: architectures, shapes, methods, recipes, data sets, targets."""
    from hetcompress.cli import console

    found = _found()
    if kind is not None:
        name = kind.replace("-", " ")
        if name not in found:
            raise UsageError("list", expected="a kind of names", found=f"'{kind}'", fix=suggestion(name, list(found)))
        found = {name: found[name]}
    if json_out:
        console.print_json({"command": "list", "result": found})
    elif kind is None:
        for title, names in found.items():
            console.result(f"{title}: {', '.join(names)}")
    else:
        for name in next(iter(found.values())):
            console.result(f"{name:30} {_about(name)}" if kind == "recipes" else name)


def _found() -> dict[str, list[str]]:
    """Return all names, by kind."""
    from hetcompress.data import DATA_SOURCES
    from hetcompress.granularity import GRANULARITIES
    from hetcompress.latency import RUNTIMES
    from hetcompress.learners import LEARNERS
    from hetcompress.lowering import LOWERINGS
    from hetcompress.models import MODELS
    from hetcompress.penalties import PENALTIES
    from hetcompress.recipes import recipe_names
    from hetcompress.shapes import SHAPE_FAMILIES
    from hetcompress.targets import EXPORT_TARGETS

    architectures = [f"hetcompress:{name}" for name in MODELS]
    return {
        "recipes": recipe_names(),
        "architectures": [*architectures, "torchvision:NAME", "timm:NAME", "path/file.py:factory", "pkg.mod:factory"],
        "shape families": list(SHAPE_FAMILIES),
        "granularities": [*GRANULARITIES, "auto"],
        "methods": list(LEARNERS),
        "penalties": list(PENALTIES),
        "lowerings": list(LOWERINGS),
        "data sets": list(DATA_SOURCES),
        "export targets": list(EXPORT_TARGETS),
        "runtimes": list(RUNTIMES),
    }


def _about(recipe: str) -> str:
    from hetcompress.recipes import load_recipe

    return load_recipe(recipe).about

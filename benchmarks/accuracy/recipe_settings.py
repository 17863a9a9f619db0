"""A recipe as the objects that the package's functions take, with what a benchmark changes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetcompress.goals import ShapeSettings
from hetcompress.pipeline import DataSettings
from hetcompress.recipes import Recipe
from hetcompress.training import TrainSettings

__all__ = ["RecipeSettings", "given"]

IN_OTHER_WORDS = {"data": "name", "milestone": "milestones"}
RUNNING = ("checkpoint_every", "arch", "device")
"""Options of `finetune` that are not of the method."""


def given(recipe: Recipe, part: str) -> dict[str, Any]:
    """Return the options of a command that a recipe gives, with underscores in their names."""
    return {key.replace("-", "_"): value for key, value in recipe.options[part].items()}


@dataclasses.dataclass(frozen=True)
class RecipeSettings:
    """What `hetcompress finetune --recipe` takes out of a recipe.

    Attributes:
        data: Which images.
        train: How weights are trained.
        shapes: How shapes are learned.
    """

    data: DataSettings
    train: TrainSettings
    shapes: ShapeSettings

    @classmethod
    def of(cls, recipe: Recipe, *, root: Path | None, changes: Mapping[str, Any]) -> RecipeSettings:
        """Read a recipe.

        Args:
            recipe: With a part for `finetune`.
            root: Where the images lie.
            changes: Other values, by the names of options with underscores.

        Raises:
            SystemExit: An option belongs to none of the three.
        """
        options = given(recipe, "finetune") | dict(changes)
        options = {IN_OTHER_WORDS.get(name, name): value for name, value in options.items() if name not in RUNNING}
        if "milestones" in options:
            options["milestones"] = tuple(options["milestones"])
        options["root"] = root
        taken = [
            {field.name: options[field.name] for field in dataclasses.fields(kind) if field.name in options}
            for kind in (DataSettings, TrainSettings, ShapeSettings)
        ]
        unknown = options.keys() - set().union(*taken)
        if unknown:
            raise SystemExit(f"recipe {recipe.name}: nothing takes {', '.join(sorted(unknown))}")
        data, train, shapes = taken
        return cls(DataSettings(**data), TrainSettings(**train), ShapeSettings(**shapes))

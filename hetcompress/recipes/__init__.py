"""Recipes: one TOML file for one reproducible run, with what is given to `convert` and to `finetune`.

::

    about = "ResNet-20 on CIFAR-10, half of the MACs"
    [convert]
    granularity = "vector"
    [finetune]
    mac-ratio = 2.0

A key is the name of a long option, a value what would stand behind it; a repeated option is a list.  Which keys a
command has, the command knows: `hetcompress.cli.recipes` checks them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetcompress.errors import InputError, UsageError
from hetcompress.registry import suggestion

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["COMMANDS", "Recipe", "load_recipe", "recipe_names"]

COMMANDS = ("convert", "finetune")
SUFFIX = ".toml"
SHIPPED = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What one file says.

    Attributes:
        name: The file's name without its suffix.
        about: What it is for, in a line.
        sha256: Of the options; name, `about` and comments do not count.
        options: What each command is given, by the name of the command, then of the option.
    """

    name: str
    about: str
    sha256: str
    options: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, str]:
        """Return what identifies the recipe in a run folder, beside the settings that came of it."""
        return {"name": self.name, "sha256": self.sha256}


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))


def load_recipe(recipe: str) -> Recipe:
    """Read a recipe of the package by its name, or a file whose name ends in ``.toml``.

    Raises:
        UsageError: There is no recipe of this name.
        InputError: The file is missing, no TOML, or no recipe.
    """
    if not recipe.endswith(SUFFIX) and recipe not in recipe_names():
        raise UsageError(
            f"--recipe {recipe}", expected=f"a recipe's name, or a file that ends in {SUFFIX}",
            found="neither", fix=f"{suggestion(recipe, recipe_names())}; `hetcompress list recipes` shows all",
        )  # fmt: skip
    path = Path(recipe) if recipe.endswith(SUFFIX) else SHIPPED / f"{recipe}{SUFFIX}"
    where = f"recipe {path}"
    try:
        data = path.read_bytes()
        read = tomllib.loads(data.decode())
    except OSError as error:
        raise InputError(
            where,
            expected="a readable file",
            found=error.strerror or str(error),
            fix="check the path and who may read it",
        ) from None
    except ValueError as error:  # of TOML, and of UTF-8
        raise InputError(where, expected="TOML", found=str(error), fix="correct the file") from None
    _check(where, read)
    options = {command: read.get(command, {}) for command in COMMANDS}
    said = json.dumps(options, sort_keys=True, default=str)
    return Recipe(path.stem, read.get("about", ""), hashlib.sha256(said.encode()).hexdigest(), options)


def _check(where: str, read: Mapping[str, Any]) -> None:
    for key, value in read.items():
        if key != "about" and key not in COMMANDS:
            raise InputError(
                f"{where}, key {key}", expected=f"about, [{'], ['.join(COMMANDS)}]", found=f"'{key}'",
                fix=suggestion(key, ["about", *COMMANDS]),
            )  # fmt: skip
        if not isinstance(value, str if key == "about" else dict):
            expected = "a text" if key == "about" else f"a table, [{key}]"
            raise InputError(f"{where}, key {key}", expected=expected, found=repr(value), fix="correct the file")

"""Rows of JSON, one line each: reading them, adding to them, and telling whether a recipe still gives what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetcompress.errors import HetCompressError
from hetcompress.files import write_text
from hetcompress.goals import ShapeSettings
from hetcompress.recipes import Recipe, load_recipe

__all__ = ["LEARNED", "fresh_rows_of", "is_current", "method_of", "put_row", "rows_of"]

Row = Mapping[str, Any]
LEARNED = ("ours", "unstructured")
"""Methods of `accuracy.py` that learn shapes."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows that are there already."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def fresh_rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows that their recipes still give."""
    return [row for row in rows_of(path) if is_current(row)]


def put_row(path: Path, row: Row) -> None:
    """Add a row, in place of that of the same run; what others have added meanwhile stays."""
    others = [other for other in rows_of(path) if _run_of(other) != _run_of(row)]
    write_text(path, "".join(json.dumps(one) + "\n" for one in [*others, row]))


def _run_of(row: Row) -> tuple[Any, ...]:
    """Return what tells the run of a row from others, those of earlier recipes and defaults too."""
    return row["key"], row.get("recipe_sha256"), _learned_by(row)


def is_current(row: Row) -> bool:
    """Return whether a row is what its recipe gives still: it says the same, and shapes are learned in the same way."""
    try:
        recipe = load_recipe(row["key"]["recipe"])
    except HetCompressError:
        return False
    return recipe.sha256 == row.get("recipe_sha256") and _learned_by(row) in (None, method_of(recipe))


def method_of(recipe: Recipe) -> str:
    """Return how a recipe learns shapes."""
    return str(recipe.options["finetune"].get("method", ShapeSettings.method))


def _learned_by(row: Row) -> str | None:
    """Return how the recipe of a row learned shapes, None where that does not count, or is not known."""
    if "method" not in row["key"]:  # of `ablation.py`
        return row.get("recipe_method")
    return str(row["settings"]["shapes"]["method"]) if row["key"]["method"] in LEARNED else None

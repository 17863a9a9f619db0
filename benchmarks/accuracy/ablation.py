"""What decides: short runs of a recipe with one thing changed, one row of JSON each.

    python benchmarks/accuracy/ablation.py cifar10-resnet20-5x resnet20-12fca82f.th --epochs 2 --data-root DIR

`--only` names the changes to try, of those in `CHANGES`.  Rows that stand in --out are not made again unless the recipe
has changed since.  These runs choose settings by the test images, so their accuracies are optimistic by a little and
prove nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import relaxations
import scores
from recipe_settings import RecipeSettings, given
from rows import fresh_rows_of, method_of
from scores import Combined, Curved, learner

from hetcompress import pipeline, schedules
from hetcompress.artifacts import RunFolder
from hetcompress.finetuning import finetune
from hetcompress.pipeline._common import open_run_data
from hetcompress.recipes import Recipe, load_recipe

HERE = Path(__file__).parent
CONSTANTS = {
    "floor": "hetcompress.allocation.FLOOR",
    "easing": "hetcompress.learners.cubic",
    "learner": "hetcompress.finetuning.learner_of",
}
"""What no option sets."""

GRAIN = ("granularity", "family", "family_arguments", "group_out", "group_in")
FINE = {"group_out": 8, "group_in": 1}
LIBRARY = {"family": "rigid", **FINE}
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "method magnitude": {"method": "magnitude"},
    "method sensitivity": {"method": "sensitivity"},
    "geometric mean of sensitivity and magnitude": {"learner": learner(Combined, combine=scores.geometric_mean)},
    "taps by the geometric mean, layers by sensitivity": {"learner": learner(Combined, combine=scores.taps_by_both)},
    "taps by root mean squares": {"learner": learner(Combined, combine=scores.taps_by_norm)},
    "taps by magnitude times what they read": {"learner": learner(Curved, gradients=False)},
    "taps by curvature": {"learner": learner(Curved)},
    "taps and layers by curvature": {"learner": learner(Curved, layers_too=True)},
    "layers by the root of their sensitivity": {"learner": learner(Combined, combine=scores.layers_by_root)},
    "taps by sensitivity, layers by magnitude": {"learner": learner(Combined, combine=scores.layers_by_magnitude)},
    "trained logits, penalty on MACs": {"method": "penalty"},
    "trained logits, 30 times as fast": {"method": "penalty", "logit_lr": 30.0},
    "trained logits, shapes of LHC's library": {"method": "penalty", **LIBRARY},
    "trained logits, LHC's penalty, density 0.2": {"method": "penalty", "mac_ratio": None, "density": 0.2},
    "hard concrete gates": {"learner": relaxations.hard_concrete},
    "group lasso": {"learner": relaxations.group_lasso},
    "all layers keep the same share": {"floor": 1.0},
    "no layer is kept from vanishing": {"floor": 0.0},
    "the budget tightens linearly": {"easing": schedules.linear},
    "stage 1 has a quarter of the steps": {"stage1": 0.25},
    "stage 1 has two fifths of the steps": {"stage1": 0.4},
    "learning rate 0.06": {"lr": 0.06},
    "learning rate 0.015": {"lr": 0.015},
    "batches of 64 images": {"batch_size": 64},
    "features weigh 30": {"features": 30.0},
    "features weigh 100": {"features": 100.0},
    "features weigh 300": {"features": 300.0},
    "class scores at temperature 2": {"temperature": 2.0},
    "no features": {"features": 0.0},
    "neither features nor scores": {"distill": 0.0, "features": 0.0},
    "single weights": {"family": "free", "group_out": 1, "group_in": 1},
    "shapes per 16 filters": {"granularity": "vector"},
    "shapes for all filters": {"family": "free", "group_out": "all", "group_in": 1},
    "shapes per 16 filters and 4 channels": {"family": "free", "group_out": 16, "group_in": 4},
    "shapes are empty, centre or full": {"family": "centre", "family_arguments": {"block": 1}, **FINE},
    "shapes of LHC's library": LIBRARY,
    "whole channels": {"granularity": "whole"},
    "whole kernels, centres or nothing for all filters": {"granularity": "channels"},
    "granularities of layers by time": {"granularity": "auto"},
}
"""By what is said of them in the table of docs/method.md."""


def conversion_of(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """Return what `pipeline.convert` takes of a recipe with changes."""
    convert = given(recipe, "convert")
    grain = {name: value for name, value in changes.items() if name in GRAIN}
    return {name: value for name, value in convert.items() if not grain or name not in GRAIN} | grain


def trained(options: argparse.Namespace, recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """Run a recipe with changes; return what came out."""
    convert, constants = conversion_of(recipe, changes), {name: changes[name] for name in CONSTANTS if name in changes}
    others = {name: value for name, value in changes.items() if name not in GRAIN and name not in CONSTANTS}
    others |= {"epochs": options.epochs, "seed": options.seed}
    settings = RecipeSettings.of(recipe, root=options.data_root, changes=others)
    plain = {name: value for name, value in constants.items() if not callable(value)}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as patches:
        for name, value in constants.items():
            patches.enter_context(mock.patch(CONSTANTS[name], value))
        pipeline.convert(options.checkpoint, run=Path(folder) / "run", **convert)
        run = RunFolder.open(Path(folder) / "run")
        data = open_run_data(run, settings.data)
        result = finetune(run.converted_model(), run.dense_model(), data, train=settings.train, shapes=settings.shapes)
    return {
        **{name: round(value.percent, 2) for name, value in result.accuracies.items()},
        "test_loss": round(result.accuracies["after stage 2"].loss, 4),
        "mac_ratio": result.epochs[-1]["mac_ratio"],
        "settings": {**convert, **given(recipe, "finetune"), **others, **plain},
    }


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its name")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="CHANGE")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "ablation.jsonl")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    for change in options.only:
        key = {"recipe": recipe.name, "epochs": options.epochs, "seed": options.seed, "change": change}
        if any(row["key"] == key for row in fresh_rows_of(options.out)):
            continue
        found = trained(options, recipe, CHANGES[change])
        row = {"key": key, "recipe_sha256": recipe.sha256, "recipe_method": method_of(recipe), **found}
        line = json.dumps(row)
        with options.out.open("a") as out:
            out.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()

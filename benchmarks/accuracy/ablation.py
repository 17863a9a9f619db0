"""What decides: short runs of a recipe with one thing changed, one row of JSON each.

    python benchmarks/accuracy/ablation.py cifar10-resnet20-5x resnet20-12fca82f.th --epochs 2 --data-root DIR

`--only` names the changes to try, of those in `CHANGES`.  Rows that stand in --out are not made again.  These runs
choose settings by the test images, so their accuracies are optimistic by a little and prove nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from accuracy import rows_of

from hetcompress import pipeline, schedules
from hetcompress.artifacts import RunFolder
from hetcompress.finetuning import finetune
from hetcompress.goals import ShapeSettings
from hetcompress.pipeline import DataSettings
from hetcompress.pipeline._common import open_run_data
from hetcompress.recipes import Recipe, load_recipe
from hetcompress.training import TrainSettings

HERE = Path(__file__).parent
CONSTANTS = {
    "floor": "hetcompress.pruning.FLOOR",
    "averaging": "hetcompress.learners.SensitivityLearner.momentum",
    "easing": "hetcompress.learners.cubic",
}
"""What no option sets."""

GRAIN = ("granularity", "family", "group_out", "group_in")
SHORT = {"stage1": 0.25}
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "stage1 .15": {"stage1": 0.15},
    "stage1 .25": SHORT,
    "stage1 .4": {"stage1": 0.4},
    "stage1 .8": {"stage1": 0.8},
    "linear budget": {"easing": schedules.linear},
    "lr .02": {"lr": 0.02},
    "stage1 .25, lr .02": {**SHORT, "lr": 0.02},
    "stage1 .25, lr .1": {**SHORT, "lr": 0.1},
    "stage1 .25, floor .15": {**SHORT, "floor": 0.15},
    "stage1 .25, 8 filters": {**SHORT, "group_out": 8, "group_in": 1},
    "all filters": {"group_out": "all", "group_in": 1},
    "channels": {"granularity": "channels"},
    "magnitude": {"method": "magnitude"},
    "penalty": {"method": "penalty"},
    "averaging .9": {"averaging": 0.9},
    "no features": {"features": 0.0},
    "features 30": {"features": 30.0},
    "neither features nor scores": {"distill": 0.0, "features": 0.0},
    "weight decay 5e-4": {"weight_decay": 5e-4},
    "EMA .99": {"ema": 0.99},
}
"""By what is said of them in the table of docs/method.md."""


def settings_of(recipe: Recipe, changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `pipeline.convert` takes, and the options of finetune, of a recipe with changes."""
    given = {key.replace("-", "_"): value for key, value in recipe.options["finetune"].items()}
    convert = {key.replace("-", "_"): value for key, value in recipe.options["convert"].items()}
    grain = {name: value for name, value in changes.items() if name in GRAIN}
    if grain:
        convert = {name: value for name, value in convert.items() if name not in GRAIN} | grain
    rest = {name: value for name, value in changes.items() if name not in GRAIN and name not in CONSTANTS}
    return convert, given | rest


def fields_of(kind: type, given: dict[str, Any]) -> Any:
    """Build settings of what is given for them."""
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given})


def trained(options: argparse.Namespace, recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """Run a recipe with changes; return what came out."""
    convert, given = settings_of(recipe, changes)
    given |= {"epochs": options.epochs, "seed": options.seed}
    constants = {name: value for name, value in changes.items() if name in CONSTANTS}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as patches:
        for name, value in constants.items():
            patches.enter_context(mock.patch(CONSTANTS[name], value))
        pipeline.convert(options.checkpoint, run=Path(folder) / "run", **convert)
        run = RunFolder.open(Path(folder) / "run")
        data = open_run_data(run, fields_of(DataSettings, {**given, "name": given["data"], "root": options.data_root}))
        result = finetune(
            run.converted_model(), run.dense_model(), data,
            train=fields_of(TrainSettings, given), shapes=fields_of(ShapeSettings, given),
        )  # fmt: skip
    return {
        **{name: round(value.percent, 2) for name, value in result.accuracies.items()},
        "test_loss": round(result.accuracies["after stage 2"].loss, 4),
        "mac_ratio": result.epochs[-1]["mac_ratio"],
        "settings": {**convert, **given, **constants},
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
        if any(row["key"] == key for row in rows_of(options.out)):
            continue
        row = {"key": key, **trained(options, recipe, CHANGES[change])}
        line = json.dumps(row, default=lambda function: function.__name__)
        with options.out.open("a") as out:
            out.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
